// The page: what it is connected to, what is asked, and what it checked itself.

import { Card, Failure, Figure, Id, Tag, address, coin, computed, effect, go, html, keep, link, many, money, number, render, signal, useEffect, useRef, useState, when } from "../../node/http/page/static/lib.js";
import { Explained } from "../../node/http/page/static/views/why.js";
import { Bank, readBack, writeBack } from "./bank.js";
import { Client } from "./client.js";
import { hex, unhex } from "./bytes.js";
import { barredUntil } from "./doubts.js";
import { newSecret } from "./keys.js";
import { Net } from "./net.js";
import { Purse, readyAt } from "./purse.js";
import { Memory, Store } from "./store.js";
import { Wallet, configJson } from "./wallet.js";

const CHAT = "lorikeet.web.chat";
const MOST_TURNS = 40;
const MAX_TOKENS = 256;
const FRESH_MS = 60_000; // how long what the node told of itself counts
const CLOCK_MS = 300_000; // a clock that is more wrong than this is spoken of

const told = signal(null); // /node.json
const clockOff = signal(0); // by how much this device's clock is before the node's, in ms
const client = signal(null);
const state = signal({ kind: "opening", text: "connecting …" });
const peers = signal([]);
const running = signal(null);
const purse = signal(null);
const channels = signal([]);
const turns = signal(load());

// ---- beginning ----

async function begin() {
  try {
    await hear();
    const store = await Store.open(() => lose("this browser's data was cleared; reload the page")).catch(() => new Memory());
    const secret = await store.first("keys", "page", newSecret());
    const net = await Net.open(secret, location.protocol === "https:");
    const { paid_in: paidIn } = told.value;
    const wallet = paidIn && new Wallet(() => window.ethereum, paidIn);
    purse.value = paidIn && store instanceof Store ? new Purse({ store, secret, wallet, bank: new Bank(), paidIn, onChange: showChannels }) : null;
    await showChannels();
    const opened = new Client({ net, told: told.value, here: location, secret, store, purse: purse.value });
    net.node.addEventListener("connection:open", () => (peers.value = net.peers));
    net.node.addEventListener("connection:close", () => (peers.value = net.peers));
    await opened.connect();
    client.value = opened;
    state.value = { kind: "open", text: "connected" };
    document.documentElement.dataset.ready = "yes";
    if (told.value.base) opened.base(unhex(told.value.base)).catch(() => {}); // the first question then waits less
  } catch (error) {
    lose(error.message);
  }
}

const lose = (text) => (state.value = { kind: "lost", text });

// What the node says of itself now: names, and by what fees are divided.
async function hear() {
  const response = await fetch("/node.json");
  if (!response.ok) throw new Error(`the node answered ${response.status}`);
  const date = Date.parse(response.headers.get("date") ?? "");
  clockOff.value = Math.abs(Date.now() - date) > CLOCK_MS ? Date.now() - date : 0;
  told.value = await response.json();
  coin.value = told.value.coin;
  heardAt = performance.now();
}

let heardAt = 0;

async function hearAgain() {
  if (performance.now() - heardAt < FRESH_MS) return;
  await hear().catch(() => {}); // a node that is gone may be followed by another
  client.value.told = told.value;
  if (told.value.paid_in) purse.value?.hear(told.value.paid_in);
}

async function showChannels() {
  channels.value = purse.value ? await purse.value.rows() : [];
}

// ---- the conversation ----

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(CHAT) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one?.question === "string" && Array.isArray(one.lost) && Array.isArray(one.checks)) : [];
  } catch {
    return [];
  }
}

function put(list) {
  turns.value = list.slice(-MOST_TURNS);
  try {
    localStorage.setItem(CHAT, JSON.stringify(turns.value));
  } catch {
    // the browser's store is full or forbidden: the conversation lasts as long as the page
  }
}

async function pose(model, question) {
  const stop = new AbortController();
  running.value = stop;
  const before = turns.value.filter((one) => one.text).flatMap((one) => [{ role: "user", content: one.question }, { role: "assistant", content: one.text }]);
  const turn = { model, question, text: "", state: "looking for a node", checks: [], lost: [] };
  const list = [...turns.value, turn];
  put(list);
  const began = performance.now();
  let drawing = null;
  const draw = () => {
    drawing = null;
    put([...list]);
  };
  const tell = (change) => {
    Object.assign(turn, change);
    drawing ??= setTimeout(draw, 40); // 25 times a second is as live as one sees
  };
  try {
    await hearAgain();
    for await (const event of client.value.answer(model, [...before, { role: "user", content: question }], { maxTokens: MAX_TOKENS, signal: stop.signal })) {
      if (event.adapter) turn.checks = checksOf(event.adapter);
      if (event.lost) tell({ lost: [...turn.lost, { ...event.lost, owed: Number(event.lost.owed) }], state: "asking another node" });
      if (event.facts) tell({ facts: event.facts, state: "answering" });
      else if (event.state) tell({ state: event.state === "found" ? "asking" : event.state });
      if (event.text) turn.text += event.text;
      if (event.tokens) tell({ tokens: event.tokens, firstMs: event.firstMs, speed: (1000 * (event.tokens - 1)) / Math.max(1, performance.now() - began - event.firstMs) });
      if (event.finish) tell({ state: "done", finish: plain(event.finish), said: event.said, took: { ...client.value.took } });
    }
  } catch (error) {
    tell(stop.signal.aborted ? { state: "stopped" } : { state: "failed", error: error.message });
  }
  running.value = null;
}

const plain = (finish) => ({
  ...finish, amount: Number(finish.amount), receipt: finish.receipt && hex(finish.receipt),
  split: finish.split.map((one) => ({ ...one, address: hex(one.address), amount: Number(one.amount) })),
});

function checksOf({ parts, numAsked, cocktail }) {
  if (!parts.length) return [];
  const asked = numAsked === 1 ? "one node was asked" : `${numAsked} nodes were asked`;
  return [
    parts.length > 1 ? `each name is signed by its owner (${asked})` : `the name is signed by its owner (${asked})`,
    parts.length > 1 ? "each manifest has the hash that its name means, and its creator's signature" : "the manifest has the hash that the name means, and its creator's signature",
    ...(cocktail ? [`the cocktail was mixed here: ${parts.map((one) => `${one.weight / 10_000} of ${one.manifest.name}`).join(", ")}`] : []),
  ];
}

// ---- what is seen ----

function Ask() {
  const { query } = address.value;
  const model = query.get("m") ?? told.value?.adapters[0]?.name ?? "base";
  const [text, setText] = useState(query.get("q") ?? "");
  const busy = running.value !== null;
  const submit = (event) => {
    event.preventDefault();
    const question = text.trim();
    if (!question || busy || !client.value) return;
    setText("");
    keep({ m: model, q: "" });
    pose(model, question);
  };
  const type = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<${Card}><form class="ask" onSubmit=${submit}>
    <div class="form"><${Models} model=${model}/></div>
    <p><label for="question">Question</label>
      <textarea id="question" value=${text} placeholder="Ask something; Enter sends, Shift and Enter begins a new line"
        onInput=${(event) => setText(event.target.value)} onChange=${() => keep({ q: text })} onKeyDown=${type}></textarea></p>
    <div class="row">
      <button class="main" disabled=${busy || !text.trim() || !client.value}>Ask</button>
      ${busy && html`<button type="button" class="risky" onClick=${() => running.value.abort()}>Stop</button>`}
      ${turns.value.length > 0 && !busy && html`<button type="button" onClick=${() => put([])}>New conversation</button>`}
    </div>
  </form>
  <p class="soft after">Whoever answers reads the question. Nobody else does: this page is a peer of the network itself.</p><//>
  ${turns.value.map((turn, place) => html`<${Turn} key=${place} turn=${turn} isLast=${place === turns.value.length - 1}/>`).reverse()}`;
}

function Models({ model }) {
  const known = told.value?.adapters ?? [];
  const chosen = known.find((one) => one.name === model);
  return html`<label>Who answers
      <input list="models" value=${model} onChange=${(event) => keep({ m: event.target.value.trim() || "base" })}/>
      <datalist id="models"><option value="base"/>${known.map((one) => html`<option value=${one.name}>${one.description}</option>`)}</datalist></label>
    <p class="soft">${chosen ? [chosen.description, chosen.licence].filter(Boolean).join(" · ") : model === "base" ? "The base model alone." : "An adapter, as NAME or OWNER/NAME, or several in one: law:0.7+verse:0.3."}</p>`;
}

function Turn({ turn, isLast }) {
  const busy = isLast && running.value !== null;
  const left = !busy && !["done", "stopped", "failed"].includes(turn.state);
  const { facts, finish } = turn;
  return html`<section class="turn" aria-label=${`Question: ${turn.question.slice(0, 60)}`}>
    <p class="question">${turn.question}</p>
    <article class="card answer" aria-label=${`${turn.model} answers`}>
      <div class="row between"><h2>${turn.model}</h2>
        ${busy ? html`<${Tag} kind="good">${turn.state}<//>` : turn.state === "stopped" ? html`<${Tag} kind="note">stopped<//>` : left ? html`<${Tag} kind="note">the page was left<//>` : null}</div>
      <p class=${busy ? "text cursor" : "text"} aria-live="polite" aria-busy=${busy}>${turn.text}</p>
      <${Failure} error=${turn.error}/>
      ${facts && html`<p class="live">${[
        html`by <${Id} text=${facts.servedBy}/>`,
        ` · ${facts.dtype}`,
        turn.firstMs && ` · first word ${number(turn.firstMs)} ms`,
        turn.speed > 0 && ` · ${number(turn.speed, 1)} tokens/s`,
        ` · ${facts.promptTokens} + ${turn.tokens ?? 0} tokens`,
        finish?.neighbours > 1 && ` · shared a step with ${finish.neighbours - 1} other adapters`,
        finish?.reason === "length" && " · cut by its length",
      ]}</p>`}
      ${turn.lost.map((one) => html`<p class="live"><${Id} text=${one.peerId}/> ${one.cheated ? "cheated, and is not asked again for a while" : "was lost"} after ${many(one.after, "token")}: ${one.why}${one.owed > 0 && html`; for its part it may still bill up to <b>${money(one.owed)}</b>`}</p>`)}
      ${turn.state === "done" && html`<details><summary>What this page checked</summary><ul class="found">
        ${[...turn.checks, "the tokenizer has the hash that the base's signed card names, and made the tokens here", ...paidChecks(turn)].map((one) => html`<li>${one}</li>`)}</ul></details>`}
      ${turn.said?.adapters.length > 0 && client.value && html`<${Whose} turn=${turn}/>`}
    </article></section>`;
}

function Whose({ turn }) {
  const [open, setOpen] = useState(false);
  const [found, setFound] = useState({});
  const ask = () => {
    setOpen(!open);
    if (open || found.value) return;
    setFound({});
    client.value.words.explain(turn.said, turn.finish).then((value) => setFound({ value }), (error) => setFound({ error }));
  };
  return html`<div class="row"><button type="button" aria-expanded=${open} onClick=${ask}>Whose words?</button></div>
    ${open && html`<div class="why"><${Explained} ...${found}/></div>`}`;
}

function paidChecks({ facts, finish }) {
  if (!facts?.paid || !finish?.receipt) return ["nothing was paid, so there is no receipt"];
  return [html`the receipt <${Id} text=${finish.receipt}/> over <b>${money(finish.amount)}</b> is the one that this page computed, and ${finish.isSettled ? "both signed it" : "this page signed it; the node left before it said that it has that"}`];
}

function Money() {
  const [error, setError] = useState(null);
  const [done, setDone] = useState(null);
  if (!told.value?.paid_in) return html`<${Card}><p>Answers are free in this network.</p><//>`;
  const act = (action, tell) => action.then((value) => (setError(null), setDone(tell(value))), (why) => (setDone(null), setError(why)));
  const open = channels.value.filter((one) => !one.isClosed && (one.deposit > 0n || one.asked));
  const given = readBack(address.value.query.get("back") ?? "");
  return html`${given && html`<${Card} title="A channel that another page opened">
      <p>Out of channel <${Id} text=${hex(given.row.id)}/> <b>${money(Number(given.row.cumulative))}</b> were spent at this node; the rest goes back to <${Id} text=${hex(given.row.config.payer)}/>.</p>
      <p class="row"><button type="button" onClick=${() => act(new Bank().refund(given.row, given.signature), back)}>Take back the rest</button></p><//>`}
    <${Card} title="What lies in channels">
      <p class="soft">A question opens a channel to the node that answers: your wallet signs one deposit, this page pays out of it token by token. It keeps the channel in this browser alone: do not clear its data before you took back what is left.</p>
      <${Failure} error=${error}/>
      ${done && html`<p role="status">${done}</p>`}
      ${!open.length && html`<p class="empty">Nothing.</p>`}
      ${open.map((row) => html`<${Channel} key=${hex(row.id)} row=${row} act=${act}/>`)}
    <//>
    ${!purse.value?.wallet.isHere && html`<${Card}><p class="notice">This browser has no wallet; a new channel needs one (MetaMask, Rabby, …).</p><//>`}`;
}

const back = (amount) => html`<b>${money(Number(amount))}</b> went back to your wallet.`;

function Channel({ row, act }) {
  const left = row.deposit - row.cumulative;
  const busy = running.value !== null;
  const elsewhere = row.site && row.site !== location.origin ? `${row.site}/#/money?back=${writeBack(row, purse.value.vouch(row))}` : null;
  const ready = row.withdrawal && readyAt(row);
  return html`<section aria-label="A channel"><dl class="figures">
      <${Figure} label="deposited" value=${money(Number(row.deposit))}/><${Figure} label="spent" value=${money(Number(row.cumulative))} note=${`${row.sequence} receipts`}/>
      <${Figure} label="left" value=${money(Number(left))}/></dl>
    <p class="soft">channel <${Id} text=${hex(row.id)}/>, ${ready ? `on its way back since ${when(row.withdrawal.at)}; your wallet can finish it from ${when(ready)} on` : row.left ? `used no more: ${row.left}` : "in use"}</p>
    ${ready
      ? html`<p class="row"><button type="button" disabled=${busy || Date.now() / 1000 < ready} onClick=${() => act(purse.value.finish(row.id), back)}>Finish the withdrawal</button></p>`
      : html`<p class="row">${elsewhere
          ? html`<a href=${elsewhere} target="_blank" rel="noopener noreferrer">Take back what is left, at ${row.site}</a>
            <button type="button" class="quiet" onClick=${() => act(purse.value.look(row.id), (amount) => (amount > 0n ? back(amount) : "It lies there still."))}>Look again</button>`
          : html`<button type="button" disabled=${busy || left <= 0n} onClick=${() => act(purse.value.giveBack(row.id), back)}>Take back what is left</button>`}
        <button type="button" class="quiet" disabled=${busy || left <= 0n} onClick=${() => act(purse.value.withdraw(row.id), () => "The contract was asked. Come back when the delay is over.")}>By the wallet alone</button></p>`}
    ${row.promised.some((one) => one.limit) && html`<p class="notice">An answer broke off; the next question to this node settles it.</p>`}
    <details><summary>If the node does not give it back</summary>
      <p class="soft">Then the wallet does, by two transactions whose gas it pays: one now, the other ${number(row.config.withdrawDelay / 3600)} hours later. Whoever has the wallet and the lines below can do that elsewhere too (initiateWithdraw and finalizeWithdraw of ${told.value.paid_in.channels}).</p>
      <pre tabindex="0">${JSON.stringify(configJson(row.config), null, 1)}</pre></details></section>`;
}

function Peers() {
  return html`<${Card} title=${`Connected to ${many(peers.value.length, "node")}`}>
    ${peers.value.map((one) => html`<dl class="facts" key=${one.peerId}><dt>node</dt><dd><${Id} text=${one.peerId}/></dd><dt>at</dt><dd>${one.address}</dd></dl>`)}
    ${!peers.value.length && html`<p class="empty">To nobody.</p>`}
  <//>
  ${told.value && html`<${Card} title="This network"><dl class="facts">
    <dt>name</dt><dd>${told.value.network}</dd>
    <dt>base</dt><dd>${told.value.base ? html`<${Id} text=${told.value.base}/>` : "not known"}</dd>
    <dt>paid</dt><dd>${told.value.paid_in ? `yes, on chain ${told.value.paid_in.chain_id}` : "no, answers are free here"}</dd>
    ${client.value && html`<dt>this page</dt><dd><${Id} text=${client.value.net.node.peerId.toString()}/> (a key that this browser keeps)</dd>`}</dl><//>`}
  <${Barred}/>
  ${client.value && html`<${Card} title="The latest question"><dl class="figures">
    ${Object.entries(client.value.took).map(([name, ms]) => html`<${Figure} key=${name} label=${LABELS[name] ?? name} value=${number(ms)} unit="ms"/>`)}</dl><//>`}`;
}

function Barred() {
  const [, look] = useState(0);
  const now = Date.now() / 1000;
  const found = Object.keys(client.value?.doubts ?? {}).filter((one) => barredUntil(client.value.doubts, one, now) > now);
  return found.length > 0 && html`<${Card} title="Not asked by this browser">
    ${found.map((one) => html`<p class="row" key=${one}><span><${Id} text=${one}/> cheated; not before ${when(barredUntil(client.value.doubts, one, now))}</span>
      <button type="button" onClick=${() => client.value.forgive(one).then(() => look((count) => count + 1))}>Ask it again</button></p>`)}<//>`;
}

const LABELS = { connect: "connected after", name: "name found", manifest: "manifest here", base: "tokenizer ready", providers: "nodes found", offer: "offer came", first: "first word" };

const VIEWS = { ask: ["Ask", Ask], money: ["Money", Money], peers: ["Connections", Peers] };

const theme = signal(localStorage.getItem("lorikeet.theme") ?? "");
effect(() => {
  document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("lorikeet.theme", theme.value);
});

function Theme() {
  const next = { "": "light", light: "dark", dark: "" }[theme.value];
  const names = { "": "as the system", light: "light", dark: "dark" };
  return html`<button type="button" class="quiet" onClick=${() => (theme.value = next)}
    aria-label=${`Colours: ${names[theme.value]}; change to ${names[next]}`}>${{ "": "◐", light: "☀", dark: "☾" }[theme.value]}</button>`;
}

const view = computed(() => (address.value.view in VIEWS ? address.value.view : "ask"));

function App() {
  const [title, Shown] = VIEWS[view.value];
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${title} · Lorikeet`;
  }, [title]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the content</a>
    <header class="bar">
      <a class="brand" href="#/ask"><img src="/page/icon.svg" alt="" width="24" height="24"/>Lorikeet</a>
      <nav aria-label="Parts of this page"><ul>
        ${Object.entries(VIEWS).map(([name, [label]]) => html`<li><a href=${link(name)} aria-current=${name === view.value ? "page" : undefined}>${label}</a></li>`)}
      </ul></nav>
      <div class="end"><p class=${`link ${state.value.kind}`} role="status">${state.value.kind === "lost" ? "not connected" : state.value.text}</p><${Theme}/></div>
    </header>
    <main id="main" tabindex="-1"><h1 ref=${heading} tabindex="-1">${title}</h1>
      ${state.value.kind === "lost" && html`<p class="failure" role="alert">This page is not connected: ${state.value.text}
        <button type="button" onClick=${() => location.reload()}>Try again</button></p>`}
      ${clockOff.value !== 0 && html`<p class="notice" role="alert">This device's clock is ${number(Math.abs(clockOff.value) / 60_000)} minutes ${clockOff.value > 0 ? "fast" : "slow"}. Set it: names, offers and deposits have dates.</p>`}
      <${Shown}/></main>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App}/>`, root);
begin();
addEventListener("pageshow", (event) => event.persisted && location.reload()); // its store is closed
if (!location.hash) go("ask");
