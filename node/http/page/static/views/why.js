// On whose words an answer drew, and how its fee was split.

import { Failure, Fragment, Id, Table, Tag, Waiting, html, money, number, useAsked } from "../lib.js";

const MOST_SPANS = 12;
const VERDICTS = { agrees: ["good", "recomputed here, and it agrees"], differs: ["bad", "recomputed here, and it differs"], unknown: ["note", "cannot be recomputed here"] };

export function Why({ receipt }) {
  return html`<${Explained} ...${useAsked(`/lorikeet/v1/why/${receipt}`)}/>`;
}

export function Explained({ value, error }) {
  if (error) return html`<${Failure} error=${error}/>`;
  if (!value) return html`<${Waiting}/>`;
  const [kind, words] = VERDICTS[value.verdict] ?? [];
  const spans = value.adapters
    .flatMap((one) => one.spans)
    .sort((one, other) => other.bits - one.bits)
    .slice(0, MOST_SPANS)
    .sort((one, other) => one.start - other.start);
  return html`
    <p>${words && html`<${Tag} kind=${kind}>${words}<//>`} <span class="soft">${value.reason}</span></p>
    ${value.text !== null && html`<p class="question"><${Marked} text=${value.text} spans=${spans}/></p>`}
    ${spans.length > 0 && html`<ol class="found">${spans.map((one, index) => html`<li><sup>${index + 1}</sup> <b>${one.contributor}</b>${one.source ? html`, “${one.source.title}”, document ${one.source.document}` : ""}: ${one.end - one.start} tokens, ${number(one.bits)} bits more than anybody would write</li>`)}</ol>`}
    ${value.split.length > 0 && html`<${Table} caption="How the fee was split" rows=${value.split} keyOf=${(one) => one.role + one.address + one.name}
      columns=${[
        { name: "Who", of: (one) => one.name || one.role },
        { name: "As", of: (one) => one.role },
        { name: "Address", of: (one) => html`<${Id} text=${one.address}/>` },
        { name: "Gets", right: true, of: (one) => money(one.amount) },
      ]}/>`}
    ${value.adapters.map((one) => html`<${Fragment} key=${one.cid}>
      <h3>${one.adapter}: ${one.lambda_eighths}/8 by this answer, the rest by standing weights</h3>
      ${one.contributors.length > 0 && html`<${Table} caption=${`Contributors to ${one.adapter}`} rows=${one.contributors} keyOf=${(each) => each.address}
        columns=${[
          { name: "Contributor", of: (each) => each.name },
          { name: "Bits", right: true, of: (each) => (each.bits === null ? "–" : number(each.bits)) },
          { name: "Drawn on", right: true, of: (each) => `${number(each.drawn / 100, 1)} %` },
          { name: "Standing weight", right: true, of: (each) => each.weight },
        ]}/>`}
      ${one.quality?.answers > 0 && html`<p class="soft">How good is this? r ${number(one.quality.r, 2)} [${one.quality.r_interval.map((x) => number(x, 2)).join(", ")}], LDS ${number(one.quality.lds, 2)}, on ${one.quality.answers} answers.</p>`}<//>`)}
  `;
}

// The answer with its spans marked, each found after the one before.
function Marked({ text, spans }) {
  const out = [];
  let place = 0;
  spans.forEach((one, index) => {
    const found = text.indexOf(one.text, place);
    if (found < 0) return;
    out.push(text.slice(place, found), html`<mark key=${index}>${one.text}<sup>${index + 1}</sup></mark>`);
    place = found + one.text.length;
  });
  return html`${out}${text.slice(place)}`;
}
