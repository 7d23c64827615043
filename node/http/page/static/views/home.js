// How this node does: role, reach, speed, money, and what is wrong with its mend.

import { Card, Commands, Empty, Failure, Figure, Tag, Waiting, html, link, many, money, number, span, useAsked, useState } from "../lib.js";
import { failures, parts, rates } from "../live.js";
import { Qr } from "./qr.js";

const REACH = {
  reachable: ["yes", "good", "others can dial this node"],
  behind: ["behind a router", "", "others come by relays, and answers go out all the same"],
  unknown: ["not known yet", "", "nobody has tried yet"],
};

export default function Home() {
  const status = parts.status.value;
  if (!status) return failures.value.status ? html`<${Failure} error=${failures.value.status}/>` : html`<${Waiting}/>`;
  return html`
    <p class="lead">A <b>${status.role}</b> on the network <b>${status.network}</b>, up for <b>${span(status.uptime_s)}</b>.</p>
    <${Commands} of="lorikeet status"/>
    ${status.waits_for && html`<p class="notice" role="status">It waits for ${status.waits_for}.</p>`}
    <div class="grid">
      <${Network} status=${status}/>
      <${Speed} status=${status}/>
      <${Earned} paid=${status.settlement?.paid}/>
      <${Serves} status=${status}/>
    </div>
    <${Health}/>`;
}

function Network({ status }) {
  const [word, kind, what] = REACH[status.reach?.state] ?? REACH.unknown;
  return html`<${Card} title="Reachable from outside?" cmd="lorikeet status">
    <dl class="figures"><${Figure} label="from outside" value=${html`<span class=${kind}>${word}</span>`} note=${what}/>
      <${Figure} label="peers" value=${html`<a href=${link("peers")}>${status.num_peers}</a>`} note="connected now"/></dl>
    ${status.reach?.relays?.length > 0 && html`<p class="soft">By ${many(status.reach.relays.length, "relay")}.</p>`}
    ${status.page_at && html`<p>Anybody's browser asks at <a href=${status.page_at} rel="noreferrer">${status.page_at}</a></p><details><summary>Open it on a phone</summary><${Qr} text=${status.page_at} label="The address of the page for everybody's browser"/></details>`}
    ${status.reach?.mapped_port && html`<p class="soft">The router maps port ${status.reach.mapped_port}.</p>`}
  <//>`;
}

function Speed({ status }) {
  const now = rates.value.at(-1) ?? 0;
  const lately = rates.value.length ? rates.value.reduce((sum, one) => sum + one, 0) / rates.value.length : 0;
  const total = status.engine?.tokens_generated ?? status.counters?.tokens_served ?? 0;
  return html`<${Card} title="Tokens a second" cmd=${status.engine ? "lorikeet ps" : "lorikeet status"}>
    <dl class="figures"><${Figure} label="now" value=${number(now, now < 10 ? 1 : 0)}/>
      <${Figure} label=${`in the last ${span(rates.value.length)}`} value=${number(lately, 1)}/>
      <${Figure} label="since it started" value=${number(total)} unit="tokens"/></dl>
    ${!status.engine && html`<p class="soft">This node asks others; what it serves itself is counted.</p>`}
    <${Spark} values=${rates.value}/>
  <//>`;
}

// A line of the last minutes; the figures beside it say the same.
export function Spark({ values }) {
  if (values.length < 2) return null;
  const most = Math.max(1, ...values);
  const points = values.map((value, index) => `${(100 * index) / (values.length - 1)},${29 - (28 * value) / most}`);
  return html`<svg class="spark" viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true">
    <path class="under" d=${`M0,30L${points.join("L")}L100,30Z`}/><path d=${`M${points.join("L")}`}/></svg>`;
}

function Earned({ paid }) {
  const earnings = parts.earnings.value;
  const stuck = parts.stuck.value ?? [];
  const error = failures.value.earnings;
  const credited = (earnings ?? []).reduce((sum, one) => sum + one.credited, 0);
  const claimed = (earnings ?? []).reduce((sum, one) => sum + one.claimed, 0);
  const today = parts.receipts.value?.today ?? { count: 0, amount: 0 };
  const waits = stuck.reduce((sum, one) => sum + one.amount, 0);
  return html`<${Card} title="Earnings" cmd=${["lorikeet earnings", "lorikeet earnings --why-zero", "lorikeet receipts"]}>
    <${Failure} error=${error}/>
    ${paid === false ? html`<${Empty}>No chain is set, so nobody is paid. Set <code>chain_rpc</code> in <code>lorikeet.toml</code>, or join a network by its token.<//>`
      : !earnings ? !error && html`<${Waiting}/>`
      : html`<dl class="figures"><${Figure} label="credited" value=${money(credited)}/>
        <${Figure} label="claimed" value=${money(claimed)}/>
        <${Figure} label="not paid yet" value=${money(waits)} note=${many(stuck.length, "amount")}/>
        <${Figure} label="fees today" value=${money(today.amount)} note=${`for ${many(today.count, "answer")}`}/></dl>
        <p><a href=${link("receipts")}>Receipts, and why something is not paid yet</a></p>`}
  <//>`;
}

function Serves({ status }) {
  const held = parts.held.value ?? [];
  const [base, digest] = (status.base ?? "").split(" ");
  return html`<${Card} title="What it serves" cmd="lorikeet ps">
    <dl class="figures"><${Figure} label="adapters here" value=${html`<a href=${link("adapters")}>${held.length}</a>`}/>
      <${Figure} label="answering" value=${number(status.engine?.running ?? 0)} note=${`${number(status.engine?.waiting ?? 0)} wait`}/></dl>
    <p class="soft">${status.engine ? html`Base <b>${base}</b>${digest && html` <code>${digest.slice(0, 12)}…</code>`}` : "No engine here: it asks other nodes."}</p>
    <p><a href=${link("chat")}>Ask it something</a></p>
  <//>`;
}

const ORDER = { wrong: 0, note: 1, ok: 2 };
const WORDS = { wrong: "wrong", note: "note", ok: "ok" };

// What is wrong and the mend, as the doctor finds it; asked when one comes here, and on a press.
export function Health() {
  const [again, setAgain] = useState(0);
  const { value, error } = useAsked("/lorikeet/v1/checkup", again);
  const found = [...(value ?? [])].sort((one, other) => ORDER[one.state] - ORDER[other.state]);
  const wrong = found.filter((one) => one.state === "wrong").length;
  return html`<${Card} title="What is wrong, and the mend" cmd="lorikeet doctor" wide>
    <div class="row between"><p role="status">${error ? "" : !value ? "Looking at every part …"
      : wrong ? html`<b class="bad">${many(wrong, "part")} of ${found.length} ${wrong === 1 ? "is" : "are"} wrong.</b>`
      : html`<b class="good">All ${found.length} parts work.</b>`}</p>
      <button type="button" onClick=${() => setAgain(again + 1)}>Look again</button></div>
    <${Failure} error=${error}/>
    <ul class="found">${found.map((one) => html`<li key=${one.part + one.what}><${Tag} kind=${one.state}>${WORDS[one.state]}<//> <b>${one.part}</b>: ${one.what}
      ${one.mend && one.state !== "ok" && html`<span class="mend">→ ${one.mend}</span>`}</li>`)}</ul>
  <//>`;
}
