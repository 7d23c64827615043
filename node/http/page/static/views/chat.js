// One question to one or several adapters, side by side: who answers, how fast, for how much, and on
// whose words. Conversations stay in this browser; the address names the conversation and the models.

import { Card, Commands, Empty, Failure, Id, Tag, address, brief, events, go, html, keep, link, money, number, send, signal, useEffect, useRef, useState } from "../lib.js";
import { parts } from "../live.js";
import { Why } from "./why.js";

const STORE = "lorikeet.chats";
const MOST_CHATS = 30;
const MOST_MODELS = 6;

const chats = signal(load());

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return typeof found === "object" && found ? found : {};
  } catch {
    return {};
  }
}

function store(id, chat) {
  const all = Object.entries({ ...chats.value, [id]: chat }).sort(([, one], [, other]) => other.at - one.at);
  chats.value = Object.fromEntries(all.slice(0, MOST_CHATS));
  try {
    localStorage.setItem(STORE, JSON.stringify(chats.value));
  } catch {
    // the browser's store is full or forbidden: the conversation lasts as long as the page
  }
}

function forget(id) {
  const { [id]: gone, ...rest } = chats.value;
  chats.value = rest;
  localStorage.setItem(STORE, JSON.stringify(rest));
}

export default function Chat() {
  const { query } = address.value;
  const id = query.get("c");
  const chat = (id && chats.value[id]) || { at: 0, turns: [] };
  const models = query.getAll("m").length ? query.getAll("m").slice(0, MOST_MODELS) : ["base"];
  const earlier = Object.entries(chats.value).filter(([other]) => other !== id);
  return html`
    <${Ask} models=${models} chat=${chat} id=${id}/>
    ${chat.turns.map((turn, index) => html`<${Turn} key=${`${id}-${index}`} turn=${turn}/>`).reverse()}
    ${earlier.length > 0 && html`<details class="turn"><summary>Earlier conversations in this browser (${earlier.length})</summary>
      <ul class="found">${earlier.map(([other, one]) => html`<li key=${other} class="row between">
        <a href=${link("chat", [], { c: other, m: one.models })}>${one.turns[0]?.question.slice(0, 90)}</a>
        <button type="button" class="quiet" aria-label=${`Forget “${one.turns[0]?.question.slice(0, 40)}”`} onClick=${() => forget(other)}>forget</button></li>`)}</ul></details>`}`;
}

const running = signal(null);

function Ask({ models, chat, id }) {
  const { query } = address.value;
  const [text, setText] = useState(query.get("q") ?? "");
  const [options, setOptions] = useState({ max_tokens: "256", temperature: "", seed: "" });
  const field = useRef(null);
  useEffect(() => {
    if (!running.value) setText(query.get("q") ?? "");
  }, [id]);
  const busy = running.value !== null;
  const submit = (event) => {
    event.preventDefault();
    const question = text.trim();
    if (!question || busy) return;
    setText("");
    const name = id ?? crypto.randomUUID().slice(0, 8);
    keep({ c: name, q: "", m: models });
    pose(name, chat, question, models, options);
  };
  const type = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const set = (name) => (event) => setOptions({ ...options, [name]: event.target.value });
  return html`<${Card}>
    <form class="ask" onSubmit=${submit}>
      <${Models} models=${models}/>
      <p><label for="question">Question</label>
        <textarea id="question" ref=${field} value=${text} placeholder="Ask something; Enter sends, Shift and Enter begins a new line"
          onInput=${(event) => setText(event.target.value)} onChange=${() => keep({ q: text })} onKeyDown=${type}></textarea></p>
      <details><summary>Length, temperature, seed</summary><div class="form">
        <label>most tokens <input inputmode="numeric" value=${options.max_tokens} onInput=${set("max_tokens")}/></label>
        <label>temperature (empty: the model's own) <input inputmode="decimal" value=${options.temperature} onInput=${set("temperature")}/></label>
        <label>seed (empty: drawn) <input inputmode="numeric" value=${options.seed} onInput=${set("seed")}/></label></div></details>
      <div class="row">
        <button class="main" disabled=${busy || !text.trim()}>Ask</button>
        ${busy && html`<button type="button" class="risky" onClick=${() => running.value.abort()}>Stop</button>`}
        ${chat.turns.length > 0 && !busy && html`<button type="button" onClick=${() => go("chat", [], { m: models })}>New conversation</button>`}
      </div>
      <${Commands} of=${`lorikeet run ${models[0]} "${text.trim().slice(0, 40) || "…"}"`}/>
    </form>
  <//>`;
}

function Models({ models }) {
  const [typed, setTyped] = useState("");
  const names = ["base", "auto", ...(parts.adapters.value?.first ?? []).map((one) => one.name)];
  const add = (event) => {
    event?.preventDefault();
    const name = typed.trim();
    if (name && !models.includes(name) && models.length < MOST_MODELS) keep({ m: [...models, name] });
    setTyped("");
  };
  const drop = (name) => keep({ m: models.filter((one) => one !== name) });
  const pick = (event) => {
    setTyped(event.target.value);
    if (names.includes(event.target.value) && !(event.inputType ?? "").startsWith("insertText")) {
      keep({ m: [...new Set([...models, event.target.value])].slice(0, MOST_MODELS) });
      setTyped("");
    }
  };
  return html`<fieldset><legend>Who answers</legend><div class="models">
    ${models.map((name) => html`<span class="model" key=${name}>${name}
      ${models.length > 1 && html`<button type="button" aria-label=${`do not ask ${name}`} onClick=${() => drop(name)}>×</button>`}</span>`)}
    ${models.length < MOST_MODELS && html`<input list="models" aria-label="one more: an adapter, a mixture like law:0.7+verse:0.3, base or auto"
        placeholder="add an adapter" value=${typed} onInput=${pick} onKeyDown=${(event) => event.key === "Enter" && add(event)}/>
      <datalist id="models">${names.map((name) => html`<option value=${name}/>`)}</datalist>
      ${typed.trim() && html`<button type="button" onClick=${add}>Add</button>`}`}
  </div></fieldset>`;
}

// Asks every model at once; each answer is kept as it grows.
async function pose(id, chat, question, models, options) {
  const stop = new AbortController();
  running.value = stop;
  const answers = models.map((model) => ({ model, text: "", state: "asked" }));
  const turns = [...chat.turns, { question, answers }];
  const show = () => store(id, { at: Date.now(), models, turns: [...turns] });
  show();
  await Promise.all(models.map((model, place) => answer(chat, question, model, options, stop.signal, (change) => {
    answers[place] = { ...answers[place], ...change };
    turns[turns.length - 1] = { question, answers: [...answers] };
    show();
  })));
  running.value = null;
}

function said(chat, question, model) {
  const before = chat.turns.flatMap((turn) => {
    const one = turn.answers.find((each) => each.model === model) ?? turn.answers[0];
    return one?.text ? [{ role: "user", content: turn.question }, { role: "assistant", content: one.text }] : [];
  });
  return [...before, { role: "user", content: question }];
}

async function answer(chat, question, model, options, signal, tell) {
  const body = { model, messages: said(chat, question, model), stream: true, stream_options: { include_usage: true } };
  for (const [name, value] of Object.entries(options)) if (value !== "") body[name] = Number(value);
  const began = performance.now();
  let first = null;
  let pieces = 0;
  let text = "";
  let drawn = 0;
  let last = 0;
  let usage = null;
  // A piece may be several tokens; how many they were is told at the end.
  const speed = () => (pieces > 1 ? (1000 * ((usage?.completion_tokens ?? pieces) - 1)) / Math.max(1, last - first) : null);
  try {
    for await (const chunk of events(await send("/v1/chat/completions", { body, signal }))) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.lorikeet) tell({ facts: chunk.lorikeet, state: "begun" });
      if (chunk.usage) tell({ usage: (usage = chunk.usage) });
      const more = chunk.choices?.[0]?.delta?.content;
      if (chunk.choices?.[0]?.finish_reason) tell({ finish: chunk.choices[0].finish_reason });
      if (!more) continue;
      last = performance.now();
      first ??= last;
      pieces += 1;
      text += more;
      if (performance.now() - drawn < 40) continue; // 25 times a second is as live as one sees
      drawn = performance.now();
      tell({ text, speed: speed(), first_ms: first - began });
    }
    tell({ text, state: "done", total_ms: performance.now() - began, first_ms: first && first - began, speed: speed() });
  } catch (error) {
    const stopped = error.name === "AbortError";
    tell({ text, state: stopped ? "stopped" : "failed", error: stopped ? null : error.message, speed: speed() });
  }
}

function Turn({ turn }) {
  return html`<section class="turn" aria-label=${`Question: ${turn.question.slice(0, 60)}`}>
    <p class="question">${turn.question}</p>
    <div class="answers">${turn.answers.map((one) => html`<${Answer} key=${one.model} one=${one} question=${turn.question}/>`)}</div></section>`;
}

function Answer({ one, question }) {
  const busy = running.value !== null && (one.state === "asked" || one.state === "begun");
  const left = !busy && (one.state === "asked" || one.state === "begun"); // the page was left in the middle
  const [open, setOpen] = useState(false);
  const facts = one.facts;
  const receipt = facts?.receipt;
  return html`<article class="card answer" aria-label=${`${one.model} answers`}>
    <div class="row between"><h2>${one.model}</h2>
      ${busy ? html`<${Tag} kind="good">${one.state === "asked" ? "looking for a node" : "answering"}<//>` : one.state === "stopped" ? html`<${Tag} kind="note">stopped<//>` : left ? html`<${Tag} kind="note">the page was left<//>` : null}</div>
    <p class=${busy ? "text cursor" : "text"} aria-live="polite" aria-busy=${busy}>${one.text}</p>
    <${Failure} error=${one.error}/>
    ${facts && html`<p class="live">
      ${[
        html`by <${Id} text=${facts.served_by}/>`,
        facts.adapter !== one.model && facts.adapter && html` · ${facts.adapter}`,
        one.first_ms && html` · first word ${number(one.first_ms)} ms`,
        one.speed && html` · ${number(one.speed, 1)} tokens/s`,
        one.usage && html` · ${one.usage.prompt_tokens} + ${one.usage.completion_tokens} tokens`,
        facts.neighbours > 1 && html` · shared a step with ${facts.neighbours - 1} other adapters`,
        one.finish === "length" && html` · cut by its length`,
      ]}</p>
      ${facts.auto && html`<p class="live">auto chose ${facts.auto.model.model} (${number(facts.auto.model.score, 2)})${facts.auto.runner_up && html`, next ${facts.auto.runner_up.model} (${number(facts.auto.runner_up.score, 2)})`}</p>`}
      ${facts.continued?.map((each) => html`<p class="live">after ${each.after_tokens} tokens <${Id} text=${each.served_by}/> went on: ${each.reason}</p>`)}`}
    ${one.state === "done" && html`<div class="row">
      ${receipt ? html`<span>cost <b>${money(facts.amount)}</b></span> <a href=${link("receipts", [receipt])}>receipt ${brief(receipt)}</a>
          <button type="button" aria-expanded=${open} onClick=${() => setOpen(!open)}>Whose words?</button>`
        : html`<span class="soft">Answered by this node itself: nothing was paid, so there is no receipt.</span>`}
    </div>`}
    ${open && html`<div class="why"><${Why} receipt=${receipt}/><${Commands} of=${`lorikeet why ${receipt}`}/></div>`}
  </article>`;
}
