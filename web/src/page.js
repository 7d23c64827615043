// The page: what it is connected to, what is asked, and what it checked itself.

import { Card, Failure, Figure, Id, Tag, address, computed, effect, go, html, keep, link, many, money, number, render, signal, useEffect, useRef, useState } from "../../node/http/page/static/lib.js";
import { Client } from "./client.js";
import { hex, unhex } from "./bytes.js";
import { newSecret } from "./keys.js";
import { Net } from "./net.js";
import { Purse } from "./purse.js";
import { Memory, Store } from "./store.js";
import { Wallet } from "./wallet.js";

const CHAT = "lorikeet.web.chat";
const MOST_TURNS = 40;
const MAX_TOKENS = 256;

const told = signal(null); // /node.json
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
    const response = await fetch("/node.json");
    if (!response.ok) throw new Error(`the node answered ${response.status}`);
    told.value = await response.json();
    const store = await Store.open().catch(() => new Memory());
    const secret = await keyIn(store);
    const net = await Net.open(secret, location.protocol === "https:");
    const { paid_in: paidIn } = told.value;
    purse.value = paidIn && store instanceof Store ? new Purse({ store, secret, wallet: new Wallet(window.ethereum, paidIn), paidIn, onChange: showChannels }) : null;
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
    state.value = { kind: "lost", text: error.message };
  }
}

async function showChannels() {
  channels.value = purse.value ? await purse.value.rows() : [];
}

async function keyIn(store) {
  const kept = await store.get("keys", "page");
  if (kept) return kept;
  const secret = newSecret();
  await store.put("keys", "page", secret);
  return secret;
}

// ---- the conversation ----

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(CHAT) ?? "[]");
    return Array.isArray(found) ? found : [];
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
    for await (const event of client.value.answer(model, [...before, { role: "user", content: question }], { maxTokens: MAX_TOKENS, signal: stop.signal })) {
      if (event.adapter) turn.checks = checksOf(event.adapter);
      if (event.lost) turn.lost = [...turn.lost, event.lost];
      if (event.facts) tell({ facts: event.facts, state: "answering" });
      else if (event.state) tell({ state: event.state === "found" ? "asking" : event.state });
      if (event.text) turn.text += event.text;
      if (event.tokens) tell({ tokens: event.tokens, firstMs: event.firstMs, speed: (1000 * (event.tokens - 1)) / Math.max(1, performance.now() - began - event.firstMs) });
      if (event.finish) tell({ state: "done", finish: plain(event.finish), took: { ...client.value.took } });
    }
  } catch (error) {
    tell(stop.signal.aborted ? { state: "stopped" } : { state: "failed", error: error.message });
  }
  running.value = null;
}

const plain = (finish) => ({ ...finish, amount: Number(finish.amount), receipt: finish.receipt && hex(finish.receipt) });

function checksOf(adapter) {
  if (adapter.name === "base") return [];
  return [
    `the name is signed by its owner (${adapter.numAsked === 1 ? "one node was asked" : `${adapter.numAsked} nodes were asked`})`,
    `the manifest has the hash that the name means, and its creator's signature`,
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
    <p class="soft">${chosen ? [chosen.description, chosen.licence].filter(Boolean).join(" · ") : model === "base" ? "The base model alone." : "An adapter, as NAME or OWNER/NAME."}</p>`;
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
      ${turn.lost.map((one) => html`<p class="live"><${Id} text=${one.peerId}/> was lost after ${many(one.after, "token")}: ${one.why}</p>`)}
      ${turn.state === "done" && html`<details><summary>What this page checked</summary><ul class="found">
        ${[...turn.checks, "the tokenizer has the hash that the base's signed card names, and made the tokens here", ...paidChecks(turn)].map((one) => html`<li>${one}</li>`)}</ul></details>`}
    </article></section>`;
}

function paidChecks({ facts, finish }) {
  if (!facts?.paid || !finish?.receipt) return ["nothing was paid, so there is no receipt"];
  return [html`the receipt <${Id} text=${finish.receipt}/> over <b>${money(finish.amount)}</b> is the one that this page computed, and both signed it`];
}

function Money() {
  const [error, setError] = useState(null);
  const [moved, setMoved] = useState(null);
  if (!told.value?.paid_in) return html`<${Card}><p>Answers are free in this network.</p><//>`;
  const back = (row) => purse.value.giveBack(row).then((amount) => (setError(null), setMoved(amount)), setError);
  const open = channels.value.filter((one) => !one.isClosed);
  return html`<${Card} title="What lies in channels">
      <p class="soft">A question opens a channel to the node that answers: your wallet signs one deposit, this page pays out of it token by token. It keeps the channel in this browser alone: do not clear its data before you took back what is left.</p>
      <${Failure} error=${error}/>
      ${moved !== null && html`<p role="status"><b>${money(Number(moved))}</b> went back to your wallet.</p>`}
      ${!open.length && html`<p class="empty">Nothing.</p>`}
      ${open.map((row) => html`<dl class="figures" key=${hex(row.id)}>
        <${Figure} label="deposited" value=${money(Number(row.deposit))}/><${Figure} label="spent" value=${money(Number(row.cumulative))} note=${`${row.sequence} receipts`}/>
        <${Figure} label="left" value=${money(Number(row.deposit - row.cumulative))}/></dl>
        <p class="row"><button type="button" disabled=${running.value !== null || row.deposit <= row.cumulative} onClick=${() => back(row)}>Take back what is left</button>
          <span class="soft">channel <${Id} text=${hex(row.id)}/></span></p>
        ${row.promised.some((one) => one.limit) && html`<p class="notice">An answer broke off; the next question to this node settles it.</p>`}`)}
    <//>
    ${!purse.value?.wallet.isHere && html`<${Card}><p class="notice">This browser has no wallet; a new channel needs one (MetaMask, Rabby, …).</p><//>`}`;
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
  ${client.value && html`<${Card} title="The latest question"><dl class="figures">
    ${Object.entries(client.value.took).map(([name, ms]) => html`<${Figure} key=${name} label=${LABELS[name] ?? name} value=${number(ms)} unit="ms"/>`)}</dl><//>`}`;
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
      <${Shown}/></main>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App}/>`, root);
begin();
if (!location.hash) go("ask");
