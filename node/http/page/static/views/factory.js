// From a datanet's version to a published adapter: a recipe, a run that is watched, a look, a price.

import { Card, Empty, Failure, Figure, Id, Table, Tag, Waiting, address, ask, follow, go, html, link, many, number, size, span, useAsked, useEffect, useRef, useState, when } from "../lib.js";
import { failures, parts } from "../live.js";
import { Progress } from "./datanets.js";
import { Ask, Compare, Influence, Merge } from "./runs.js";

const ROOT = "/lorikeet/v1/runs";
const KINDS = { new: "", working: "good", paused: "note", stopped: "note", finished: "good", failed: "bad" };

export default function Factory() {
  const name = address.value.parts[0];
  const see = address.value.query.get("see");
  if (!name && see === "compare") return html`<${Compare}/>`;
  if (!name && see === "merge") return html`<${Merge}/>`;
  if (!name) return html`<${All}/>`;
  return name === "new" ? html`<${New}/>` : html`<${One} key=${name} name=${name}/>`;
}

function All() {
  const runs = parts.runs.value;
  return html`<${Card} title="Trainings" cmd="lorikeet train list">
    <${Failure} error=${failures.value.runs}/>
    ${!runs ? !failures.value.runs && html`<${Waiting}/>` : html`<${Table} caption="Trainings" rows=${runs} keyOf=${(one) => one.name} empty="None yet. A training begins with a version of a datanet."
      columns=${[
        { name: "Name", of: (one) => html`<a href=${link("factory", [one.name])}>${one.name}</a>` },
        { name: "State", of: (one) => html`<${Tag} kind=${KINDS[one.state]}>${one.state}<//>` },
        { name: "Step", right: true, of: (one) => `${one.step} of ${one.num_steps}` },
        { name: "Loss", right: true, of: (one) => (one.loss === null ? "–" : number(one.loss, 3)) },
        { name: "Held out", right: true, of: (one) => (one.best === null ? "–" : number(one.best, 3)) },
        { name: "People", right: true, of: (one) => one.people },
        { name: "Made", of: (one) => when(one.made_at) },
      ]}/>`}
    <p class="row"><a class="button" href=${link("factory", ["new"])}>Train a new adapter</a>
      ${runs?.length > 1 && html`<a class="button" href=${link("factory", [], { see: "compare", r: runs.slice(0, 2).map((one) => one.name) })}>Compare trainings</a>`}
      <a class="button" href=${link("factory", [], { see: "merge" })}>Merge adapters</a></p><//>`;
}

const quoted = (text) => (/^\d+$/.test(text) ? text : JSON.stringify(text));

// The six fields that matter, as `lorikeet train new` writes them.
function recipe({ name, base, id, version, kind, rank, epochs }) {
  return `recipe = 1\nname = ${JSON.stringify(name)}\nbase = ${JSON.stringify(base)}\ndatanets = [{ id = ${JSON.stringify(id)}, version = ${version} }]\n\n[adapter]\nkind = ${JSON.stringify(kind)}\nrank = ${quoted(rank)}\n\n[train]\nepochs = ${quoted(epochs)}\n`;
}

function New() {
  const datanets = parts.datanets.value;
  const wanted = address.value.query.get("datanet") ?? "";
  const [given, setGiven] = useState({ name: wanted, kind: "lora", rank: "auto", epochs: "auto", datanet: wanted });
  const [text, setText] = useState("");
  const [state, setState] = useState({});
  const base = (parts.status.value?.base ?? "").split(" ")[1] ?? "";
  const chosen = datanets?.find((one) => one.name === given.datanet);
  const detail = useAsked(chosen ? `/lorikeet/v1/datanets/${chosen.id}` : null).value;
  const last = detail?.versions.at(-1);
  const set = (name) => (event) => setGiven({ ...given, [name]: event.target.value });
  const made = chosen && last && given.name ? recipe({ ...given, base, id: chosen.id, version: last.number }) : "";
  const said = { recipe: text || made };
  const act = (word, path, then) => async () => {
    setState({ busy: true });
    try {
      then(await follow(path, said, (progress) => setState({ busy: true, progress })));
    } catch (error) {
      setState({ error });
    }
  };
  if (!datanets) return html`<${Waiting}/>`;
  return html`<p><a href=${link("factory")}>← all trainings</a></p><${Card} title="A new adapter" cmd="lorikeet train new NAME --datanet DATANET">
    ${!datanets.length && html`<${Empty}>There is no datanet here yet. <a href=${link("datanets")}>Make or join one first.</a><//>`}
    <div class="form"><label>name <input value=${given.name} onInput=${set("name")}/></label>
      <label>whose texts <select value=${given.datanet} onChange=${set("datanet")}><option value="">choose a datanet</option>${datanets.map((one) => html`<option>${one.name}</option>`)}</select></label>
      <label>kind <select value=${given.kind} onChange=${set("kind")}>${["lora", "rslora", "dora", "qlora"].map((one) => html`<option>${one}</option>`)}</select></label>
      <label>rank: how much it can hold <input value=${given.rank} onInput=${set("rank")}/></label>
      <label>epochs: how often each text is read <input value=${given.epochs} onInput=${set("epochs")}/></label></div>
    ${chosen && detail && !last && html`<p class="notice">${chosen.name} has no version yet; <a href=${link("datanets", [chosen.name])}>make one</a>.</p>`}
    <details><summary>The whole recipe</summary><label for="recipe">recipe</label><textarea id="recipe" rows="14" value=${text || made} onInput=${(event) => setText(event.target.value)}></textarea></details>
    <${Failure} error=${state.error}/><${Progress} state=${state}/>${state.check && html`<${Check} check=${state.check}/>`}
    <p class="row"><button type="button" disabled=${state.busy || !said.recipe} onClick=${act("check", `${ROOT}/check`, (check) => setState({ check }))}>Check: rows, steps, minutes, disk</button>
      <button type="button" class="main" disabled=${state.busy || !state.check} onClick=${act("start", `${ROOT}/start`, (run) => go("factory", [run.name]))}>Start</button></p><//>`;
}

function Check({ check }) {
  return html`<dl class="figures"><${Figure} label="rows" value=${number(check.rows + check.chats)} note=${`${number(check.documents)} documents of ${many(check.people, "person", "people")}`}/>
      <${Figure} label="steps" value=${number(check.steps)}/><${Figure} label="takes about" value=${span(check.seconds)}/><${Figure} label="memory" value=${size(check.memory_bytes)}/><${Figure} label="disk" value=${size(check.disk_bytes)}/></dl>
    ${check.warnings.map((one) => html`<p class="notice">${one}</p>`)}
    <details><summary>What each field does</summary><${Table} caption="Fields" rows=${check.fields} keyOf=${(one) => one.field} empty="" columns=${[{ name: "Field", of: (one) => one.field }, { name: "Value", of: (one) => html`<code>${one.value}</code>${one.is_decided ? " (decided)" : ""}` }, { name: "What it does", of: (one) => one.what }]}/></details>`;
}

// A run as it goes on: one stream while it is watched.
function useWatched(name) {
  const [state, setState] = useState({ steps: [] });
  const live = parts.runs.value?.find((one) => one.name === name);
  useEffect(() => {
    const source = new EventSource(`${ROOT}/${encodeURIComponent(name)}/events`);
    const steps = new Map();
    source.onmessage = (event) => {
      const told = JSON.parse(event.data);
      if (told.end) return source.close();
      for (const one of told.steps) steps.set(one.step, one);
      setState({ run: told.run, steps: [...steps.values()].sort((one, other) => one.step - other.step) });
      return undefined;
    };
    return () => source.close();
  }, [name, live?.state === "working"]);
  return { run: live ?? state.run, steps: state.steps };
}

function One({ name }) {
  const { run, steps } = useWatched(name);
  const [error, setError] = useState(null);
  const tell = (path, body) => async () => {
    try {
      await ask(`${ROOT}/${encodeURIComponent(name)}/${path}`, { body });
      setError(null);
    } catch (failed) {
      setError(failed);
    }
  };
  const back = html`<p><a href=${link("factory")}>← all trainings</a></p>`;
  if (!run) return parts.runs.value ? html`${back}<${Empty}>There is no training “${name}” here.<//>` : html`${back}<${Waiting}/>`;
  const working = run.state === "working";
  return html`${back}<${Card} title=${run.name} cmd=${`lorikeet train watch ${run.name}`}>
    <p><${Tag} kind=${KINDS[run.state]}>${run.state}<//> ${run.why} ${working && html`<span class="soft">This page may be closed: the training goes on by itself.</span>`}</p>
    <dl class="figures"><${Figure} label="step" value=${number(run.step)} note=${`of ${number(run.num_steps)}`}/><${Figure} label="loss" value=${run.loss === null ? "–" : number(run.loss, 3)} note="nats a token"/>
      <${Figure} label="held out, best" value=${run.best === null ? "–" : number(run.best, 3)} note=${run.first === null ? "" : `began at ${number(run.first, 3)}`}/>
      ${working && run.seconds_left !== null && html`<${Figure} label="time left" value=${span(run.seconds_left)}/>`}
      ${run.tokens_a_second !== null && html`<${Figure} label="tokens a second" value=${number(run.tokens_a_second)}/>`}</dl>
    <progress max=${run.num_steps || 1} value=${run.step} aria-label="steps done"></progress>
    <${Curve} steps=${steps}/>
    <${Failure} error=${error}/>
    <p class="row">${working && html`<button type="button" onClick=${tell("ask", { wanted: "pause" })}>Pause</button><button type="button" class="risky" onClick=${tell("ask", { wanted: "finish" })}>Stop and keep</button>`}
      ${(run.state === "paused" || run.state === "stopped" || run.state === "failed") && html`<button type="button" class="main" onClick=${tell("resume", {})}>Go on</button>`}</p>
    <dl class="facts"><dt>kind</dt><dd>${run.kind}, rank ${run.rank}</dd><dt>learns from</dt><dd>${many(run.people, "person", "people")}, ${number(run.tokens)} tokens</dd><dt>begun</dt><dd>${when(run.made_at)}</dd></dl><//>
    ${run.state === "finished" && html`<div class="grid"><${Look} run=${run}/><${Publish} run=${run}/></div>`}
    ${run.step > 0 && html`<div class="grid"><${Ask} run=${run}/><${Influence} run=${run}/></div>`}`;
}

// uPlot asks for numbers in the browser's language as it is loaded. A browser that was started under
// a POSIX locale names one that there is not ("en-US@posix"), and nothing would be drawn.
function importChart() {
  try {
    new Intl.NumberFormat(navigator.language);
  } catch {
    Object.defineProperty(navigator, "language", { value: "en", configurable: true });
  }
  return import("../vendor/uplot.js");
}

// Loss and what is held out, by step. The figures above say where it stands.
function Curve({ steps }) {
  const place = useRef(null);
  const chart = useRef(null);
  useEffect(() => {
    let gone = false;
    if (!place.current || steps.length < 2) return undefined;
    const data = [steps.map((one) => one.step), steps.map((one) => one.loss), steps.map((one) => one.held_out)];
    if (chart.current) chart.current.setData(data);
    else importChart().then(({ default: UPlot }) => {
      if (gone || chart.current || !place.current) return;
      const style = getComputedStyle(document.documentElement);
      const colour = (name) => { const probe = document.createElement("span"); probe.style.color = `var(${name})`; place.current.append(probe); const found = getComputedStyle(probe).color; probe.remove(); return found; };
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: `12px ${style.fontFamily || "sans-serif"}` };
      chart.current = new UPlot({
        width: place.current.clientWidth, height: 260, scales: { x: { time: false } },
        legend: { live: false },
        axes: [{ ...axis, label: "step", incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis, label: "nats a token", size: 56 }],
        series: [{ label: "step" }, { label: "loss", stroke: colour("--leaf"), width: 1.5, points: { show: false } }, { label: "held out", stroke: colour("--amber"), width: 2, spanGaps: true, points: { show: true, size: 5 } }],
      }, data, place.current);
    });
    return () => (gone = true);
  }, [steps]);
  useEffect(() => {
    const fit = () => chart.current?.setSize({ width: place.current.clientWidth, height: 260 });
    addEventListener("resize", fit);
    return () => { removeEventListener("resize", fit); chart.current?.destroy(); chart.current = null; };
  }, []);
  if (steps.length < 2) return html`<p class="empty" ref=${place}>The curve begins with the second step.</p>`;
  const last = steps.at(-1);
  return html`<div class="curve" ref=${place} role="img" aria-label=${`Loss by step: ${number(steps[0].loss, 2)} at step ${steps[0].step}, ${number(last.loss, 2)} at step ${last.step}`}></div>`;
}

function Look({ run }) {
  const { value, error } = useAsked(`${ROOT}/${encodeURIComponent(run.name)}/evaluation`);
  return html`<${Card} title="Look" cmd=${`lorikeet train evaluate ${run.name}`}><${Failure} error=${error}/>${!value && !error && html`<${Waiting}/>`}
    ${value && html`<p class=${value.is_good ? "good" : "bad"}><b>${value.verdict}</b></p>
      <${Table} caption="Base and adapter beside one another" rows=${[value.held_out, value.learnt, value.forgetting, ...value.people].filter(Boolean)} keyOf=${(one) => one.of} empty=""
        columns=${[{ name: "Of", of: (one) => one.of }, { name: "Base", right: true, of: (one) => number(one.base, 3) }, { name: "Adapter", right: true, of: (one) => number(one.adapter, 3) }, { name: "Tokens", right: true, of: (one) => number(one.tokens) }]}/>
      <p class="soft">${number(100 * value.memorised, 1)} % of its answers' tokens stand in long runs of what it learnt.</p>
      ${value.answers.map((one) => html`<details><summary>${one.prompt.slice(0, 100)}</summary><h3>Base</h3><p>${one.base}</p><h3>Adapter</h3><p>${one.adapter}</p></details>`)}`}<//>`;
}

function Publish({ run }) {
  const [given, setGiven] = useState({ name: "", licence: "", description: "", anyway: false });
  const [state, setState] = useState({});
  const set = (name) => (event) => setGiven({ ...given, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const act = (dry) => async () => {
    setState({ busy: true });
    try {
      setState({ done: await follow(`${ROOT}/${encodeURIComponent(run.name)}/publish`, { ...given, dry_run: dry }, (progress) => setState({ busy: true, progress })) });
    } catch (error) {
      setState({ error });
    }
  };
  const done = state.done;
  return html`<${Card} title="Publish" cmd=${`lorikeet train publish ${run.name}`}>
    <div class="form"><label>name (the run's if empty) <input value=${given.name} onInput=${set("name")}/></label><label>licence (the texts' if empty) <input value=${given.licence} onInput=${set("licence")}/></label>
      <label class="wide">description: it is found by these words <input value=${given.description} onInput=${set("description")}/></label></div>
    <p><label class="check"><input type="checkbox" checked=${given.anyway} onChange=${set("anyway")}/> though its verdict is red, or a datanet's newest word is not to be had</label></p>
    <${Failure} error=${state.error}/><${Progress} state=${state}/>
    ${done && html`<p role="status"><b class=${done.is_good ? "good" : "bad"}>${done.cid ? html`Published as ${done.name}. <a href=${link("chat", [], { m: done.name })}>Ask it</a>` : "This would be published; nothing is signed yet."}</b> ${size(done.size_bytes)}, ${done.licence} ${done.cid && html`<${Id} text=${done.cid}/>`}</p>
      <${Table} caption="Who is paid" rows=${done.paid} keyOf=${(one) => one.name + one.pay_to} empty="" columns=${[{ name: "Person", of: (one) => one.name }, { name: "Tokens", right: true, of: (one) => number(one.tokens) }, { name: "Part", right: true, of: (one) => `${number(100 * one.part, 1)} %` }, { name: "At", of: (one) => html`<${Id} text=${one.pay_to}/>` }]}/>`}
    <p class="row"><button type="button" disabled=${state.busy} onClick=${act(true)}>Show what would be published</button><button type="button" class="main" disabled=${state.busy || !done} onClick=${act(false)}>Sign and publish</button></p><//>`;
}
