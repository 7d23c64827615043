// What was earned and spent: sums, why something is not paid yet, channels, and one receipt step by step.

import { Card, Empty, Failure, Figure, Id, Table, Tag, Waiting, address, ask, brief, html, keep, link, many, money, number, useAsked, useState, when } from "../lib.js";
import { failures, parts } from "../live.js";
import { Why } from "./why.js";

const STATES = {
  queued: "here, and not yet with the aggregator",
  promised: "the aggregator promised to include it",
  included: "in a posted epoch, whose challenge window is open",
  final: "the window is over: it is money",
};
const KINDS = { queued: "note", promised: "note", included: "good", final: "good" };
const OBSTACLES = {
  signature: "the client's signature; its node takes it alone when the grace is over",
  claim: "its voucher to be claimed on the chain",
  aggregator: "the aggregator's promise",
  refused: "nothing: the aggregator refuses it for good",
  epoch: "a posted header",
  window: "the end of the challenge window",
  exit: "the channel's own way out",
  payout: "its payout to be claimed: lorikeet claim",
  dead: "nothing: its channel holds less than is owed",
};

export default function Receipts() {
  const digest = address.value.parts[0];
  if (digest) return html`<${One} digest=${digest}/>`;
  return html`<div class="grid"><${Earned}/><${Sums}/></div><${Stuck}/><${Channels}/><${All}/>`;
}

function Earned() {
  const earnings = parts.earnings.value;
  return html`<${Card} title="Earned" cmd="lorikeet earnings">
    <${Failure} error=${failures.value.earnings}/>
    ${earnings && !earnings.length && html`<${Empty}>Nothing earned yet. What others pay for is answered by a volunteer that holds what they ask for.<//>`}
    ${earnings?.map((one) => html`<p class="soft">For <${Id} text=${one.address}/></p>
      <dl class="figures"><${Figure} label="credited" value=${money(one.credited)}/><${Figure} label="claimed" value=${money(one.claimed)}/><${Figure} label="holds on the chain" value=${money(one.balance)}/></dl>`)}
  <//>`;
}

function Sums() {
  const told = parts.receipts.value;
  return html`<${Card} title="Receipts by state" cmd="lorikeet receipts">
    <${Failure} error=${failures.value.receipts}/>
    ${told && html`<${Table} caption="Receipts by role and state" rows=${told.sums} keyOf=${(one) => one.role + one.state}
      empty="No receipts yet. Each paid answer leaves one."
      columns=${[
        { name: "As", of: (one) => one.role },
        { name: "State", of: (one) => html`<${Tag} kind=${KINDS[one.state]}>${one.state}<//>` },
        { name: "Receipts", right: true, of: (one) => number(one.count) },
        { name: "Amount", right: true, of: (one) => money(one.amount) },
      ]}/>`}<//>`;
}

function Stuck() {
  const stuck = parts.stuck.value;
  return html`<${Card} title="Not paid yet, and why" cmd="lorikeet earnings --why-zero">
    <${Failure} error=${failures.value.stuck}/>
    ${stuck && html`<${Table} caption="What waits" rows=${stuck} keyOf=${(one) => one.unit + one.waits_for} empty="Nothing waits: all that was earned here is paid."
      columns=${[
        { name: "What", of: (one) => html`<${Id} text=${one.unit}/>` },
        { name: "Amount", right: true, of: (one) => money(one.amount) },
        { name: "Waits for", of: (one) => OBSTACLES[one.waits_for] ?? one.waits_for },
        { name: "Until", of: (one) => when(one.until) },
        { name: "Why", of: (one) => one.detail },
      ]}/>`}<//>`;
}

function Channels() {
  const [told, setTold] = useState(null);
  const [error, setError] = useState(null);
  const [sure, setSure] = useState(null);
  const channels = told ?? parts.channels.value;
  const withdraw = async (channel) => {
    setSure(null);
    try {
      const changed = await ask("/lorikeet/v1/withdraw", { body: { channel } });
      setTold((channels ?? []).map((one) => changed.find((other) => other.channel === one.channel) ?? one));
      setError(null);
    } catch (failed) {
      setError(failed);
    }
  };
  return html`<${Card} title="Payment channels" cmd="lorikeet channels">
    <${Failure} error=${error ?? failures.value.channels}/>
    ${channels && html`<${Table} caption="Payment channels" rows=${channels} keyOf=${(one) => one.channel + one.role} empty="No channels: one is opened with the first paid answer."
      columns=${[
        { name: "Channel", of: (one) => html`<${Id} text=${one.channel}/>` },
        { name: "As", of: (one) => one.role },
        { name: "With", of: (one) => html`<${Id} text=${one.counterparty}/>` },
        { name: "State", of: (one) => html`${one.state}${one.available_at ? `, until ${when(one.available_at)}` : ""}` },
        { name: "Put in", right: true, of: (one) => money(one.balance) },
        { name: "Spent", right: true, of: (one) => money(one.spent) },
        { name: "Free", right: true, of: (one) => money(one.free) },
        { name: "Take back", right: true, of: (one) => one.role !== "client" || one.state !== "open" ? "–"
          : sure === one.channel ? html`<button type="button" class="risky" onClick=${() => withdraw(one.channel)}>Take back ${money(one.free)}</button>`
          : html`<button type="button" onClick=${() => setSure(one.channel)}>Withdraw</button>` },
      ]}/>`}
    <p class="soft">What is free comes back once the channel's delay is over; the channel pays no more from then on.</p><//>`;
}

function All() {
  const { query } = address.value;
  const by = { state: query.get("state") ?? "", role: query.get("role") ?? "", q: query.get("q") ?? "" };
  const told = parts.receipts.value;
  if (!told) return html`<${Waiting}/>`;
  const shown = told.newest.filter((one) => (!by.state || one.state === by.state) && (!by.role || one.role === by.role) && (!by.q || `${one.digest} ${one.adapter} ${one.counterparty}`.includes(by.q)));
  const more = told.total > told.newest.length ? `, of ${number(told.total)} the newest ${told.newest.length}` : "";
  return html`<${Card} title=${`Receipts${more}`} cmd="lorikeet receipts">
    <div class="form" role="search">
      <label>receipt, adapter or party <input type="search" value=${by.q} onInput=${(event) => keep({ q: event.target.value })}/></label>
      <label>as <select value=${by.role} onChange=${(event) => keep({ role: event.target.value })}><option value="">any part</option><option>node</option><option>client</option></select></label>
      <label>state <select value=${by.state} onChange=${(event) => keep({ state: event.target.value })}><option value="">any</option>${Object.keys(STATES).map((one) => html`<option>${one}</option>`)}</select></label></div>
    <${Table} caption="Receipts" rows=${shown} keyOf=${(one) => one.digest} empty=${told.total ? "No receipt fits these filters." : "No receipts yet."}
      columns=${[
        { name: "Receipt", of: (one) => html`<a href=${link("receipts", [one.digest])}>${brief(one.digest)}</a>` },
        { name: "State", of: (one) => html`<${Tag} kind=${KINDS[one.state]}>${one.state}<//>` },
        { name: "As", of: (one) => one.role },
        { name: "Adapter", of: (one) => html`<${Id} text=${one.adapter}/>` },
        { name: "Tokens", right: true, of: (one) => one.tokens },
        { name: "Amount", right: true, of: (one) => money(one.amount) },
        { name: "With", of: (one) => html`<${Id} text=${one.counterparty}/>` },
      ]}/>
  <//>`;
}

function One({ digest }) {
  const { value, error } = useAsked("/lorikeet/v1/receipts");
  const one = value?.find((each) => each.digest === digest);
  return html`<p><a href=${link("receipts")}>← all receipts</a></p>
    <${Failure} error=${error}/>
    ${value && !one && html`<${Failure} error=${`There is no receipt ${brief(digest)} here.`}/>`}
    ${one && html`<div class="grid"><${Facts} one=${one}/><${Steps} one=${one}/></div>
      <${Card} title="Whose words?" cmd=${`lorikeet why ${digest}`}><${Why} receipt=${digest}/><//>
      ${one.role === "client" && html`<${Honest} digest=${digest}/>`}`}`;
}

function Facts({ one }) {
  const facts = { Digest: html`<${Id} text=${one.digest}/>`, "This node's part": one.role, Adapter: html`<${Id} text=${one.adapter}/>`, Tokens: number(one.tokens), Amount: money(one.amount), With: html`<${Id} text=${one.counterparty}/>`, Channel: html`<${Id} text=${one.channel}/>`, "Number in it": one.sequence, "Signed by": one.is_cosigned ? "both" : "the node; the client's voucher stands for it" };
  return html`<${Card} title="The receipt" cmd="lorikeet receipts --json"><dl class="facts">${Object.entries(facts).map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl><//>`;
}

function Steps({ one }) {
  const names = Object.keys(STATES);
  const reached = names.indexOf(one.state);
  const waits = (parts.stuck.value ?? []).find((each) => each.unit === one.digest);
  return html`<${Card} title="From answer to money" cmd=${["lorikeet receipts", "lorikeet earnings --why-zero"]}><ol class="found">
    ${names.map((name, index) => html`<li aria-current=${index === reached ? "step" : undefined} class=${index > reached ? "soft" : ""}>
      <${Tag} kind=${index <= reached ? "good" : ""}>${index <= reached ? "✓" : "·"} ${name}<//> ${STATES[name]}${name === "included" && one.epoch !== null ? ` (epoch ${one.epoch})` : ""}</li>`)}</ol>
    ${waits && html`<p class="notice">It waits for ${OBSTACLES[waits.waits_for]}${waits.until ? `, until ${when(waits.until)}` : ""}. ${waits.detail}</p>`}<//>`;
}

function Honest({ digest }) {
  const [asked, setAsked] = useState(false);
  const { value, error } = useAsked(asked ? `/lorikeet/v1/verify/${digest}` : null);
  const kinds = { agrees: "good", differs: "bad", unknown: "note" };
  return html`<${Card} title="Was that answer honest?" cmd=${`lorikeet verify-answer ${digest}`}>
    ${!asked ? html`<p>This node can make the answer again, with the same adapter and seed, and compare.</p><p><button type="button" onClick=${() => setAsked(true)}>Replay it</button></p>`
      : error ? html`<${Failure} error=${error}/>` : !value ? html`<${Waiting}/>`
      : html`<p><${Tag} kind=${kinds[value.verdict]}>${value.verdict}<//> ${value.reason}</p>${value.tokens > 0 && html`<p class="soft">${many(value.missed, "token")} of ${value.tokens} did not win.</p>`}`}<//>`;
}
