// What the engine is at: memory, queue, batch, and who sits in it.

import { Card, Empty, Figure, Id, Table, Tag, Waiting, html, number, size, when } from "../lib.js";
import { parts, rates } from "../live.js";
import { Spark } from "./home.js";

const WHY = { published: "published here", pulled: "pulled", asked: "asked for by strangers", ahead: "fetched ahead: many want it", mixed: "mixed for who asked, in memory" };
const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

// The digest in a CID, in hex: the engine names adapters so.
function digest(cid) {
  let bits = "";
  for (const letter of cid.slice(1)) bits += ALPHABET.indexOf(letter).toString(2).padStart(5, "0");
  const bytes = bits.match(/.{8}/g) ?? [];
  return bytes.slice(4).map((byte) => parseInt(byte, 2).toString(16).padStart(2, "0")).join("");
}

export default function Engine() {
  const status = parts.status.value;
  if (!status) return html`<${Waiting}/>`;
  const engine = status.engine;
  if (!engine) return html`<${Card} title="No engine here" cmd="lorikeet ps"><${Empty}>This node asks others: its role is ${status.role} (role in lorikeet.toml).<//><//>`;
  if (!engine.up) return html`<${Card} title="The engine is not up" cmd="lorikeet ps"><p class="notice">${status.waits_for ? `It waits for ${status.waits_for}.` : "It is loading, or was lost and begins again."} Begun again ${number(engine.restarts)} times.</p><//>`;
  return html`<div class="grid"><${Now} engine=${engine}/><${Memory} engine=${engine}/><${Steps} engine=${engine}/></div><${Seats} engine=${engine}/>`;
}

function Now({ engine }) {
  return html`<${Card} title="At work" cmd="lorikeet ps">
    <dl class="figures"><${Figure} label="answering" value=${number(engine.running)}/><${Figure} label="waiting" value=${number(engine.waiting)}/>
      <${Figure} label="tokens a second" value=${number(rates.value.at(-1) ?? 0, 1)}/></dl>
    <${Spark} values=${rates.value}/>
    <dl class="facts"><dt>number format</dt><dd>${engine.dtype}</dd><dt>threads</dt><dd>${engine.threads}</dd><dt>longest context</dt><dd>${number(engine.max_context_tokens)} tokens</dd>
      <dt>tokens made</dt><dd>${number(engine.tokens_generated)}</dd><dt>begun again</dt><dd>${number(engine.restarts)} times</dd></dl><//>`;
}

const USES = [
  ["base", "base", "the weights that every adapter shares"],
  ["adapter", "adapters", "packed, wherever they sit"],
  ["kv", "keys and values", "what running answers, and answers of late, have read"],
  ["work", "work", "scratch of steps, requests, holes between allocations"],
  ["process", "the process", "taken before the base came"],
];

// Where its memory goes; the parts add up to what the system says that it has.
function Memory({ engine }) {
  const use = engine.memory;
  const used = engine.kv_pages - engine.kv_pages_free;
  const pages = html`<p class="soft">${number(used)} of ${number(engine.kv_pages)} pages hold keys and values that may be read again.</p>`;
  if (!use) return html`<${Card} title="Memory" cmd="lorikeet ps"><p class="soft">This engine does not say where its memory goes.</p>${pages}<//>`;
  const parts = USES.map(([name, words, told]) => ({ name, words, told, bytes: use[`${name}_bytes`] }));
  const whole = Math.max(1, parts.reduce((sum, one) => sum + one.bytes, 0));
  let at = 0;
  return html`<${Card} title=${use.place === "device" ? "Memory of the device" : "Memory"} cmd="lorikeet ps">
    <dl class="figures"><${Figure} label="in all" value=${size(use.total_bytes)}/></dl>
    <svg class="bars split" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">${parts.map((one) => {
      const width = (100 * one.bytes) / whole;
      at += width;
      return html`<rect class=${one.name} x=${at - width} width=${width} height="6"/>`;
    })}</svg>
    <dl class="facts split">${parts.map((one) => html`<dt class=${one.name}>${one.words}</dt><dd><b>${size(one.bytes)}</b> <span class="soft">${one.told}</span></dd>`)}</dl>
    ${pages}<//>`;
}

function Steps({ engine }) {
  const steps = engine.steps ?? [];
  const mean = (of) => (steps.length ? steps.reduce((sum, one) => sum + of(one), 0) / steps.length : 0);
  const drafted = engine.tokens_drafted ?? 0;
  return html`<${Card} wide title=${`Its last ${steps.length} steps`} cmd="lorikeet ps --json">
    <dl class="figures"><${Figure} label="a step takes" value=${number(mean((one) => one.step_ms), 1)} unit="ms"/>
      <${Figure} label="answers in a step" value=${number(mean((one) => one.decode_tokens), 1)}/>
      <${Figure} label="adapters in a step" value=${number(mean((one) => new Set(one.adapters).size), 1)} note=${`most: ${engine.max_adapters_in_one_step}`}/>
      <${Figure} label="tokens read in a step" value=${number(mean((one) => one.prefill_tokens), 1)}/></dl>
    ${drafted > 0 && html`<p class="soft">Of ${number(drafted)} tokens guessed ahead, ${number((100 * engine.tokens_accepted) / drafted)} % were right.</p>`}<//>`;
}

function Seats({ engine }) {
  const held = parts.held.value ?? [];
  const ready = new Set(engine.adapters_ready);
  const latest = engine.steps?.at(-1)?.adapters ?? [];
  const state = (one) => {
    const name = digest(one.cid);
    if (latest.includes(name)) return html`<${Tag} kind="good">in the last step<//>`;
    return ready.has(name) ? html`<${Tag} kind="good">on the device<//>` : html`<${Tag}>in memory or on the disk<//>`;
  };
  return html`<${Card} title="Who sits where" cmd="lorikeet ps">
    <${Table} caption="Adapters held here" rows=${[...held].sort((one, other) => (other.used_at ?? 0) - (one.used_at ?? 0))} keyOf=${(one) => one.cid}
      empty="No adapters here yet: only the base answers. Adapters has what there is."
      columns=${[
        { name: "Adapter", of: (one) => one.name },
        { name: "Where", of: state },
        { name: "Size", right: true, of: (one) => size(one.size_bytes) },
        { name: "Why it is here", of: (one) => WHY[one.why] },
        { name: "Wanted last", of: (one) => when(one.used_at) },
        { name: "CID", of: (one) => html`<${Id} text=${one.cid}/>` },
      ]}/><//>`;
}
