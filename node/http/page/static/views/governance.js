// What the network's people decided and decide: parameters with their bounds, proposals, votes.

import { Card, Empty, Failure, Figure, Id, Table, Tag, Waiting, address, html, link, many, money, number, useAsked, useState, when } from "../lib.js";
import { parts } from "../live.js";

const LORI_DECIMALS = 6n;
const STATES = { active: "good", succeeded: "good", queued: "good", executed: "", pending: "", defeated: "wrong", cancelled: "wrong", expired: "wrong" };

// Votes are larger than a number can say exactly.
const lori = (votes) => number(Number(BigInt(votes) / 10n ** LORI_DECIMALS));
const shown = (value) => (value.startsWith("0x") ? html`<${Id} text=${value}/>` : value);
const changes = (one) => (one.changes === null ? "something else than parameters" : Object.entries(one.changes).map(([name, value]) => html`<div><code>${name} = ${value}</code></div>`));

export default function Governance() {
  const [again, setAgain] = useState(0);
  const { value, error } = useAsked("/lorikeet/v1/governance", again);
  const [chosen] = address.value.parts;
  if (error) return html`<${Card} title="Nothing is decided here" cmd="lorikeet gov parameters"><${Failure} error=${error}/><//>`;
  if (!value) return html`<${Waiting}/>`;
  if (chosen) {
    const found = value.proposals.find((one) => one.number === chosen);
    return found ? html`<${Proposal} one=${found}/>` : html`<${Empty}>No proposal has this number. <a href=${link("governance")}>All proposals</a><//>`;
  }
  return html`<${Proposals} proposals=${value.proposals} onLook=${() => setAgain(again + 1)}/><${Parameters} found=${value}/>`;
}

function Proposals({ proposals, onLook }) {
  return html`<${Card} title="Proposals" cmd="lorikeet gov list">
    <div class="row between"><p class="soft">A proposal is a text with what it would change; tokens vote once they are delegated.</p>
      <button type="button" onClick=${onLook}>Look again</button></div>
    <${Table} caption="Proposals" rows=${proposals} keyOf=${(one) => one.number} empty="Nothing is proposed yet: lorikeet gov propose TEXT.md"
      columns=${[
        { name: "Title", of: (one) => html`<a href=${link("governance", [one.number])}>${one.title || "without a title"}</a>` },
        { name: "State", of: (one) => html`<${Tag} kind=${STATES[one.state] ?? ""}>${one.state}<//>` },
        { name: "Changes", of: changes },
        { name: "For", right: true, of: (one) => lori(one.in_favour) },
        { name: "Against", right: true, of: (one) => lori(one.against) },
        { name: "Quorum", right: true, of: (one) => lori(one.quorum) },
        { name: "Until", of: (one) => when(one.executable_from ?? one.votes_until) },
      ]}/><//>`;
}

function Proposal({ one }) {
  const brief = one.number.slice(0, 8);
  const facts = { State: html`<${Tag} kind=${STATES[one.state] ?? ""}>${one.state}<//>`, Changes: changes(one), "Votes from": when(one.votes_from), "Votes until": when(one.votes_until), "Executable from": when(one.executable_from), Proposer: html`<${Id} text=${one.proposer}/>`, Number: html`<${Id} text=${one.number}/>`, Simulation: one.simulation ? html`<${Id} text=${one.simulation}/>` : "none is named" };
  return html`<p><a href=${link("governance")}>All proposals</a></p>
    <${Card} title=${one.title || "A proposal"} cmd=${`lorikeet gov show ${brief}`} wide>
      <dl class="figures"><${Figure} label="for" value=${lori(one.in_favour)} note=${`quorum ${lori(one.quorum)}`}/><${Figure} label="against" value=${lori(one.against)}/><${Figure} label="abstained" value=${lori(one.abstained)}/></dl>
      <dl class="facts">${Object.entries(facts).map(([name, said]) => html`<dt>${name}</dt><dd>${said}</dd>`)}</dl>
      <pre class="log" tabindex="0" role="region" aria-label="The text">${one.text}</pre>
      <p class="soft">To vote, with the key that holds the votes: <code>lorikeet gov vote ${brief} for --key KEY</code></p><//>
    ${one.changes !== null && html`<${Simulation} number=${one.number} brief=${brief}/>`}`;
}

// What it would have made of all past epochs; leaving the proposal ends the computation.
function Simulation({ number: whole, brief }) {
  const { value: found, error } = useAsked(`/lorikeet/v1/governance/${whole}/simulation`);
  return html`<${Card} title="What it would have changed" cmd=${`lorikeet gov simulate ${brief}`} wide>
    <${Failure} error=${error}/>${!error && !found && html`<${Waiting}/>`}${found && html`<${Simulated} found=${found}/>`}<//>`;
}

function Simulated({ found }) {
  const own = { earned: 0, would_earn: 0 };
  for (const one of found.own) for (const name of Object.keys(own)) own[name] += one[name];
  const rows = found.accounts.filter((one) => one.would_earn !== one.earned);
  return html`<p>Of ${many(found.answers, "answer")} in ${many(found.epochs, "epoch")}, as they were: who would have asked more or less at another price, nobody knows.</p>
    <${Table} caption="What would hold" rows=${found.changes} keyOf=${(one) => one.name} empty="none"
      columns=${[
        { name: "Parameter", of: (one) => html`<code>${one.name}</code>${one.refused && html`<div class="bad">refused: ${one.refused}</div>`}` },
        { name: "Newest version", right: true, of: (one) => shown(one.now) },
        { name: "Would hold", right: true, of: (one) => shown(one.then) },
        { name: "Unit", of: (one) => one.unit || "–" },
      ]}/>
    <dl class="figures">
      <${Figure} label="this node would have earned" value=${money(own.would_earn)} note=${compared(own)}/>
      <${Figure} label="all clients would have paid" value=${money(found.would_pay)} note=${compared({ earned: found.paid, would_earn: found.would_pay })}/></dl>
    <${Table} caption="Whose earnings would differ the most" rows=${rows} keyOf=${(one) => one.account} empty=${found.num_accounts ? `None of the ${number(found.num_accounts)} accounts would have earned anything else.` : "Nobody earned anything yet."}
      columns=${[
        { name: "Account", of: (one) => html`<${Id} text=${one.account}/>${found.own.some((each) => each.account === one.account) && " this node's"}` },
        { name: "Earned", right: true, of: (one) => money(one.earned) },
        { name: "Would have", right: true, of: (one) => money(one.would_earn) },
        { name: "Difference", right: true, of: (one) => signed(one.would_earn - one.earned) },
      ]}/>
    <p class="soft">${found.is_named ? "The text names this very simulation." : html`Its report: <${Id} text=${found.digest}/>`}</p>`;
}

const signed = (amount) => `${amount > 0 ? "+" : ""}${money(amount)}`;
const compared = ({ earned, would_earn }) => (earned === would_earn ? `as it was: ${money(earned)}` : `was ${money(earned)}, ${signed(would_earn - earned)}`);

function Parameters({ found }) {
  const pause = parts.status.value?.settlement?.parameters?.paused_until;
  return html`<${Card} title="Parameters" cmd="lorikeet gov parameters" wide>
    <dl class="figures"><${Figure} label="version in force" value=${number(found.version)}/><${Figure} label="newest version" value=${number(found.newest)} note=${found.newest === found.version ? "" : "from the next epoch on"}/></dl>
    ${pause && html`<p class="notice" role="status">The guardian has headers wait until ${when(pause)}; claims and exits go on.</p>`}
    <${Table} caption="Parameters" rows=${found.parameters} keyOf=${(one) => one.name} empty="none"
      columns=${[
        { name: "Parameter", of: (one) => html`<code>${one.name}</code><div class="soft">${one.meaning}</div>${one.refused && html`<div class="bad">refused: ${one.refused}</div>`}` },
        { name: "In force", right: true, of: (one) => shown(one.value) },
        { name: "Next", right: true, of: (one) => (one.next === one.value ? "–" : shown(one.next)) },
        { name: "Default", right: true, of: (one) => shown(one.default) },
        { name: "Bounds", right: true, of: (one) => (one.least.startsWith("0x") ? "–" : `${one.least} to ${one.most}`) },
        { name: "Unit", of: (one) => one.unit || "–" },
      ]}/>
    <p class="soft">No vote leaves the bounds; a node applies the stricter of what is voted and what its operator set.</p><//>`;
}
