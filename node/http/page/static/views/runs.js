// Beside the watching of a training: whose text mattered to it, what a checkpoint answers, trainings
// beside one another, and several adapters in one.

import { Card, Empty, Failure, Figure, Id, Table, Tag, Waiting, address, ask, events, follow, html, keep, link, number, send, span, useAsked, useEffect, useState } from "../lib.js";
import { parts } from "../live.js";
import { Progress } from "./datanets.js";

const ROOT = "/lorikeet/v1/runs";
const at = (name) => `${ROOT}/${encodeURIComponent(name)}`;
const percent = (part) => `${number(100 * part, 1)} %`;

// ---- whose text mattered ----

export function Influence({ run }) {
  const [again, setAgain] = useState(0);
  const [told, setTold] = useState(null);
  const [error, setError] = useState(null);
  const [minutes, setMinutes] = useState("");
  const first = useAsked(`${at(run.name)}/influence`, again);
  const found = told ?? first.value;
  const working = found?.state === "working";
  useEffect(() => {
    if (!working) return undefined;
    const source = new EventSource(`${at(run.name)}/influence/events`);
    source.onmessage = (event) => {
      const word = JSON.parse(event.data);
      if (word.end) source.close();
      else setTold(word);
    };
    return () => source.close();
  }, [run.name, working]);
  const act = (path, body) => async () => {
    try {
      setTold(await ask(`${at(run.name)}/${path}`, { body }));
      setError(null);
    } catch (failed) {
      setError(failed);
    }
  };
  const figure = (one) => (one ? html`${number(one.mean, 2)} <small>[${number(one.low, 2)}, ${number(one.high, 2)}]</small>` : "–");
  return html`<${Card} title="Whose text mattered" cmd=${`lorikeet train influence ${run.name}${working ? " --show" : ""}`}>
    <p class="soft">It trains again without each person, and looks what answers lose. This sets what people are paid by; it goes on with this page closed.</p>
    <${Failure} error=${error ?? first.error}/>
    ${!found ? !first.error && html`<${Waiting}/>` : html`
      <p><${Tag} kind=${{ working: "good", failed: "bad", finished: "good" }[found.state] ?? ""}>${found.state}<//> ${found.why || found.says}</p>
      ${found.total > 0 && html`<p><progress max=${found.total} value=${found.done} aria-label="trainings done"></progress> <span class="soft">${number(found.done)} of ${number(found.total)} trainings</span></p>`}
      ${found.people.length > 0 && html`<dl class="figures"><${Figure} label="λ: follows the answer" value=${found.lambda_eighths === null ? "–" : `${found.lambda_eighths}/8`}/>
          <${Figure} label="r" value=${figure(found.r)}/><${Figure} label="LDS" value=${figure(found.lds)}/><${Figure} label="answers" value=${number(found.answers)}/></dl>
        <${Table} caption="Whose text mattered" rows=${found.people} keyOf=${(one) => one.name} empty="" columns=${[
          { name: "Who", of: (one) => `${one.name}${one.others ? ` (left out with ${one.others} more)` : ""}` },
          { name: "Standing weight", right: true, of: (one) => (found.lambda_eighths === null ? "–" : percent(one.weight)) },
          { name: "Left out, nats an answer", right: true, of: (one) => `${one.effect > 0 ? "+" : ""}${number(one.effect, 2)}` },
        ]}/>`}
      ${found.note && html`<p class="notice">${found.note}</p>`}
      <div class="form narrow"><label>for how many minutes (empty: as the recipe says) <input inputmode="decimal" value=${minutes} onInput=${(event) => setMinutes(event.target.value)} disabled=${working}/></label></div>
      <p class="row">${working ? html`<button type="button" onClick=${act("influence/stop", {})}>Stop; what is measured is kept</button>`
        : html`<button type="button" onClick=${act("influence", minutes.trim() ? { minutes: Number(minutes) } : {})}>${found.done ? "Go on measuring" : "Measure it"}</button>`}
        <button type="button" class="quiet" onClick=${() => { setTold(null); setAgain(again + 1); }}>Look again</button></p>`}<//>`;
}

// ---- what a checkpoint answers ----

export function Ask({ run }) {
  const [given, setGiven] = useState({ question: "", which: "", with_base: true, max_tokens: "128" });
  const [state, setState] = useState({});
  const set = (name) => (event) => setGiven({ ...given, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const submit = async (event) => {
    event.preventDefault();
    const stop = new AbortController();
    const said = { turns: [{ role: "user", content: given.question }], which: given.which || null, with_base: given.with_base, max_tokens: Number(given.max_tokens) };
    let now = { stop, texts: {} };
    const show = (change) => setState((now = { ...now, ...change }));
    show({});
    try {
      for await (const word of events(await send(`${at(run.name)}/chat`, { body: said, signal: stop.signal }))) {
        if (word.error) throw new Error(word.error.message);
        if (word.begun) show({ begun: word.begun });
        if (word.text) show({ texts: { ...now.texts, [word.text.by]: (now.texts[word.text.by] ?? "") + word.text.text } });
      }
      show({ stop: null });
    } catch (error) {
      show({ stop: null, error: error.name === "AbortError" ? null : error });
    }
  };
  const names = { base: "Base", adapter: "Adapter" };
  return html`<${Card} title="Ask it, as far as it has learnt" cmd=${`lorikeet train chat ${run.name} "…"`}><form onSubmit=${submit}>
    <p><label for="ask-run">question</label><textarea id="ask-run" required value=${given.question} onInput=${set("question")}></textarea></p>
    <div class="form narrow"><label>checkpoint <select value=${given.which} onChange=${set("which")}><option value="">as it is now</option><option value="best">the best until now</option><option value="last">the newest</option></select></label>
      <label>most tokens <input type="number" min="1" value=${given.max_tokens} onInput=${set("max_tokens")}/></label>
      <label class="check"><input type="checkbox" checked=${given.with_base} onChange=${set("with_base")}/> the base beside it</label></div>
    <p class="row"><button class="main" disabled=${Boolean(state.stop)}>Ask</button>${state.stop && html`<button type="button" class="risky" onClick=${() => state.stop.abort()}>Stop</button>`}</p></form>
    <${Failure} error=${state.error}/>
    ${state.begun && html`<p class="soft" role="status">${state.begun.step === null ? "What the run keeps answers" : `The checkpoint of step ${number(state.begun.step)} answers`}${state.begun.held_out !== null ? `; it loses ${number(state.begun.held_out, 3)} nats a token of what is held out` : ""}. ${state.begun.notes.join(" ")}</p>`}
    <div class="answers">${Object.entries(state.texts ?? {}).map(([by, text]) => html`<section key=${by} class="card answer"><h3>${names[by] ?? by}</h3><p class=${state.stop ? "text cursor" : "text"}>${text}</p></section>`)}</div><//>`;
}

// ---- trainings beside one another ----

export function Compare() {
  const runs = parts.runs.value;
  const chosen = address.value.query.getAll("r");
  const [state, setState] = useState({});
  const key = chosen.join("\n");
  useEffect(() => {
    setState({});
    if (chosen.length > 1) ask(`${ROOT}/compare`, { body: { runs: chosen } }).then((value) => setState({ value }), (error) => setState({ error }));
  }, [key]);
  const toggle = (name) => (event) => keep({ r: event.target.checked ? [...chosen, name] : chosen.filter((one) => one !== name) });
  const back = html`<p><a href=${link("factory")}>← all trainings</a></p>`;
  if (!runs) return html`${back}<${Waiting}/>`;
  const value = state.value;
  return html`${back}<${Card} title="Trainings beside one another" cmd=${`lorikeet train compare ${chosen.join(" ") || "RUN RUN"}`}>
    <fieldset><legend>which</legend><div class="row">${runs.map((one) => html`<label class="check" key=${one.name}><input type="checkbox" checked=${chosen.includes(one.name)} onChange=${toggle(one.name)}/> ${one.name}</label>`)}</div></fieldset>
    <${Failure} error=${state.error}/>
    ${chosen.length < 2 ? html`<${Empty}>Choose two or more.<//>` : !value ? !state.error && html`<${Waiting}/>` : html`
      <${Table} caption="What came of each" rows=${value.runs} keyOf=${(one) => one.run.name} empty="" columns=${[
        { name: "Training", of: (one) => html`<a href=${link("factory", [one.run.name])}>${one.run.name}</a>` },
        { name: "Steps", right: true, of: (one) => number(one.run.step) },
        { name: "Took", right: true, of: (one) => span(one.seconds) },
        { name: "Held out, best", right: true, of: (one) => (one.run.best === null ? "–" : number(one.run.best, 3)) },
        { name: "Base", right: true, of: (one) => (one.held_out ? number(one.held_out.base, 3) : "–") },
        { name: "Adapter", right: true, of: (one) => (one.held_out ? number(one.held_out.adapter, 3) : "–") },
        { name: "Verdict", of: (one) => html`<span class=${one.is_good === null ? "soft" : one.is_good ? "good" : "bad"}>${one.verdict || "not looked at"}</span>` },
      ]}/>
      <h3>Where their recipes differ</h3>
      <${Table} caption="Where their recipes differ" rows=${value.differing} keyOf=${(one) => one.field} empty="Nowhere."
        columns=${[{ name: "Field", of: (one) => html`<code>${one.field}</code>` }, ...value.runs.map((one, place) => ({ name: one.run.name, of: (row) => html`<code>${row.values[place]}</code>` }))]}/>`}<//>`;
}

// ---- several adapters in one ----

const METHODS = { linear: "linear: their sum", ties: "ties: without what disagrees", dare_linear: "dare_linear: a part of each, drawn", dare_ties: "dare_ties: drawn, without what disagrees" };

export function Merge() {
  const known = parts.adapters.value?.first ?? [];
  const [given, setGiven] = useState({ name: "", parents: "", method: "linear", density: "0.5", seed: "20260" });
  const [state, setState] = useState({});
  const set = (name) => (event) => setGiven({ ...given, [name]: event.target.value });
  const parents = given.parents.split(/[\s,]+/).filter(Boolean).map((text) => {
    const mark = text.lastIndexOf(":");
    return mark > 0 && !Number.isNaN(Number(text.slice(mark + 1))) ? { model: text.slice(0, mark), weight: Number(text.slice(mark + 1)) } : { model: text, weight: null };
  });
  const submit = async (event) => {
    event.preventDefault();
    setState({ busy: true });
    const said = { name: given.name.trim(), parents, method: given.method, density: Number(given.density), seed: Number(given.seed) };
    try {
      setState({ done: await follow("/lorikeet/v1/merges", said, (progress) => setState({ busy: true, progress })) });
    } catch (error) {
      setState({ error });
    }
  };
  const done = state.done;
  const drawn = given.method.startsWith("dare");
  return html`<p><a href=${link("factory")}>← all trainings</a></p>
    <${Card} title="Several adapters in one" cmd=${`lorikeet train merge ${given.name.trim() || "NAME"} ${given.parents.trim() || "law:0.7 verse:0.3"}`}>
    <p class="soft">Its parents' creators, and whose texts they learnt from, keep their shares of what it earns.</p>
    <form onSubmit=${submit}><div class="form"><label>name <input required value=${given.name} onInput=${set("name")}/></label>
      <label>adapters and their parts <input required list="parents" placeholder="law:0.7 verse:0.3" value=${given.parents} onInput=${set("parents")}/></label>
      <label>method <select value=${given.method} onChange=${set("method")}>${Object.entries(METHODS).map(([value, words]) => html`<option value=${value}>${words}</option>`)}</select></label>
      ${given.method !== "linear" && html`<label>part of the numbers that is kept <input inputmode="decimal" value=${given.density} onInput=${set("density")}/></label>`}
      ${drawn && html`<label>seed of what is dropped <input inputmode="numeric" value=${given.seed} onInput=${set("seed")}/></label>`}</div>
      <datalist id="parents">${known.map((one) => html`<option value=${one.name}/>`)}</datalist>
      <${Failure} error=${state.error}/><${Progress} state=${state}/>
      <p class="row"><button class="main" disabled=${state.busy || parents.length < 2}>Merge them</button></p></form>
    ${done && html`<p role="status" class="good"><b>${done.name} lies in ${done.folder}</b>, rank ${done.rank}.</p><p class="soft">${done.note} It is published by <code>lorikeet push ${done.folder}</code></p>
      <${Table} caption="Parents" rows=${done.parents} keyOf=${(one) => one.cid} empty="" columns=${[{ name: "Parent", of: (one) => one.name }, { name: "CID", of: (one) => html`<${Id} text=${one.cid}/>` }, { name: "Part", right: true, of: (one) => percent(one.weight) }]}/>
      <${Table} caption="Who is paid" rows=${done.paid} keyOf=${(one) => one.role + one.address} empty="" columns=${[{ name: "Paid as", of: (one) => one.role }, { name: "Address", of: (one) => html`<${Id} text=${one.address}/>` }, { name: "Of a fee", right: true, of: (one) => percent(one.part) }]}/>`}<//>`;
}
