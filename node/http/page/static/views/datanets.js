// Texts that are collected together: made, joined, given to, judged, and made into versions.

import { Card, Empty, Failure, Id, Table, Tag, Waiting, address, ask, follow, go, html, link, many, number, send, size, useAsked, useState, when } from "../lib.js";
import { failures, parts } from "../live.js";
import { carry, Drop } from "./drop.js";
import { Qr } from "./qr.js";

const ROOT = "/lorikeet/v1/datanets";
const KINDS = { waiting: "note", accepted: "good", refused: "bad", withdrawn: "" };

export default function Datanets() {
  const [name, contribution] = address.value.parts;
  if (!name) return html`<${All}/>`;
  return contribution ? html`<${Judge} datanet=${name} contribution=${contribution}/>` : html`<${One} key=${name} name=${name}/>`;
}

function All() {
  const listed = parts.datanets.value;
  return html`<${Card} title="Datanets here" cmd="lorikeet datanet list">
      <${Failure} error=${failures.value.datanets}/>
      ${!listed ? !failures.value.datanets && html`<${Waiting}/>` : html`<${Table} caption="Datanets" rows=${listed} keyOf=${(one) => one.id} empty="None yet: make one below, or join one by its invite."
        columns=${[
          { name: "Name", of: (one) => html`<a href=${link("datanets", [one.name])}>${one.name}</a>` },
          { name: "Purpose", of: (one) => one.purpose || "–" },
          { name: "You are", of: (one) => one.role },
          { name: "People", right: true, of: (one) => one.num_people },
          { name: "Accepted", right: true, of: (one) => one.num_by_state.accepted ?? 0 },
          { name: "Waiting", right: true, of: (one) => one.num_by_state.waiting ?? 0 },
          { name: "Versions", right: true, of: (one) => one.num_versions },
        ]}/>`}<//>
    <div class="grid"><${Make}/><${Join}/></div>`;
}

// A form that asks the node once it is sent, and tells what came of it.
function useDone(act) {
  const [state, setState] = useState({});
  const submit = async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    setState({ busy: true });
    try {
      setState({ done: await act(given, (progress) => setState({ busy: true, progress })) });
    } catch (error) {
      setState({ error });
    }
  };
  return [state, submit];
}

function Make() {
  const [state, submit] = useDone(async (given) => {
    const said = { name: given.name.trim(), purpose: given.purpose, consent: given.consent, licences: [given.licence.trim()], languages: given.languages.split(/[\s,]+/).filter(Boolean), is_open: given.is_open === "on" };
    const made = await ask(ROOT, { body: said });
    go("datanets", [made.name]);
    return made;
  });
  return html`<${Card} title="Make a datanet" cmd="lorikeet datanet create NAME"><form onSubmit=${submit}><div class="form">
      <label>name <input name="name" required pattern="[a-z0-9][a-z0-9._\\-]*"/></label>
      <label>licence of the texts <input name="licence" required value="CC0-1.0"/></label>
      <label>languages (any if empty) <input name="languages" placeholder="en, bn"/></label>
      <label class="wide">what it is for <input name="purpose"/></label>
      <label class="wide">what people agree to, in plain words <textarea name="consent" placeholder="Empty: the words that come with Lorikeet"></textarea></label></div>
    <p><label class="check"><input type="checkbox" name="is_open"/> open: anybody may join</label></p>
    <${Failure} error=${state.error}/><button class="main" disabled=${state.busy}>Make it</button></form><//>`;
}

function Join() {
  const [state, submit] = useDone(async (given) => {
    const joined = await ask(`${ROOT}/join`, { body: { token: given.token.trim(), name: given.name.trim() } });
    go("datanets", [joined.name]);
    return joined;
  });
  return html`<${Card} title="Join one" cmd="lorikeet datanet join TOKEN"><form onSubmit=${submit}><div class="form">
      <label class="wide">its invite, or an open one's id <input name="token" required/></label><label class="wide">your name there <input name="name"/></label></div>
    <${Failure} error=${state.error}/><button class="main" disabled=${state.busy}>Join</button></form><//>`;
}

function One({ name }) {
  const [again, setAgain] = useState(0);
  const { value, error } = useAsked(`${ROOT}/${encodeURIComponent(name)}`, again);
  if (error) return html`<${Back}/><${Failure} error=${error}/>`;
  if (!value) return html`<${Back}/><${Waiting}/>`;
  const { info } = value;
  const council = info.role === "owner" || info.role === "curator";
  const props = { info, detail: value, refresh: () => setAgain(again + 1), council };
  return html`<${Back}/>
    ${info.fork.length > 0 && html`<p class="failure" role="alert">Its log was signed twice: two different entries have one number. Trust no newer version until its owner explains it.</p>`}
    <div class="grid"><${About} ...${props}/><${Versions} ...${props}/></div>
    <${Contributions} ...${props}/>
    <div class="grid"><${Give} ...${props}/>${council && html`<${Invite} ...${props}/>`}<${People} ...${props}/></div>`;
}

const Back = () => html`<p><a href=${link("datanets")}>← all datanets</a></p>`;

function About({ info }) {
  const facts = { "You are": info.role, "Who may join": info.is_open ? "anybody" : "who is invited", Licences: info.licences.join(", "), Languages: info.languages.join(", ") || "any", "Voices needed": info.quorum, Entries: number(info.seq), Owner: html`<${Id} text=${info.owner}/>`, Id: html`<${Id} text=${info.id}/>` };
  return html`<${Card} title=${info.name} cmd=${`lorikeet datanet show ${info.name}`}><p>${info.purpose || "Its owner says nothing of its purpose."}</p>
    <dl class="facts">${Object.entries(facts).map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}</dl><//>`;
}

function Versions({ info, detail, refresh, council }) {
  const [state, submit] = useDone(async () => {
    const made = await ask(`${ROOT}/${info.id}/version`, { body: {} });
    refresh();
    return made;
  });
  const last = detail.versions.at(-1);
  return html`<${Card} title="Versions" cmd=${[`lorikeet datanet show ${info.name}`, council && `lorikeet datanet version ${info.name}`]}>
    <${Table} caption="Versions" rows=${[...detail.versions].reverse()} keyOf=${(one) => one.number} empty="None yet. A version is what an adapter is trained on; it is made of what was accepted."
      columns=${[{ name: "Version", of: (one) => one.number }, { name: "Made", of: (one) => when(one.created_at) }, { name: "Contributions", right: true, of: (one) => one.contributions }, { name: "Withdrawn since", right: true, of: (one) => one.left || "–" }]}/>
    ${last && html`<${Table} caption=${`Who holds how much of version ${last.number}`} rows=${last.totals} keyOf=${(one) => one.peer_id} empty=""
      columns=${[{ name: "Person", of: (one) => one.name || html`<${Id} text=${one.peer_id}/>` }, { name: "Documents", right: true, of: (one) => one.documents }, { name: "Words", right: true, of: (one) => number(one.words) }, { name: "Held out", right: true, of: (one) => one.held_out }]}/>`}
    <${Failure} error=${state.error}/>
    <form class="row" onSubmit=${submit}>${council && html`<button disabled=${state.busy}>Make and sign the next version</button>`}
      ${last && html`<a class="button" href=${link("factory", ["new"], { datanet: info.name })}>Train an adapter on version ${last.number}</a>`}</form><//>`;
}

function Contributions({ info, detail, council }) {
  return html`<${Card} title="Contributions" cmd=${council ? `lorikeet datanet queue ${info.name}` : `lorikeet datanet show ${info.name}`}>
    <${Table} caption="Contributions" rows=${detail.contributions} keyOf=${(one) => one.id} empty="Nobody has given anything yet. Yours can be the first."
      columns=${[
        { name: "Title", of: (one) => html`<a href=${link("datanets", [info.name, one.id])}>${one.title || "untitled"}</a>` },
        { name: "By", of: (one) => one.name || html`<${Id} text=${one.peer_id}/>` },
        { name: "State", of: (one) => html`<${Tag} kind=${KINDS[one.state]}>${one.state}<//>` },
        { name: "Documents", right: true, of: (one) => one.documents },
        { name: "Words", right: true, of: (one) => number(one.words) },
        { name: "Licence", of: (one) => one.licence },
        { name: "Given", of: (one) => when(one.given_at) },
      ]}/><//>`;
}

function Give({ info, refresh }) {
  const [dropped, setDropped] = useState([]);
  const [state, submit] = useDone(async (given, onProgress) => {
    const named = given.files.split("\n").map((one) => one.trim()).filter(Boolean);
    const files = [...named, ...(await carry(dropped, onProgress))];
    if (!files.length) throw new Error("no file is chosen: drop one, or name one by its path");
    const said = { files, title: given.title, source: given.source, licence: info.licences[0] ?? "", mask: given.mask === "on", name_me: given.name_me === "on", agreed: given.agreed === "on" };
    const done = await follow(`${ROOT}/${info.id}/give`, said, onProgress);
    if (done.num_kept) setDropped([]);
    refresh();
    return done;
  });
  return html`<${Card} title="Give texts" cmd=${`lorikeet datanet give ${info.name} FILE`}><form onSubmit=${submit}>
    <${Drop} files=${dropped} onChange=${setDropped}/>
    <details><summary>Or by their paths on this machine, with no bound but intake's</summary><p><label for="files">one full path a line</label><textarea id="files" name="files"></textarea></p></details>
    <div class="form"><label>title <input name="title"/></label><label>where it is from <input name="source" value="my own"/></label></div>
    <p><label class="check"><input type="checkbox" name="mask"/> mask personal data that is found</label><label class="check"><input type="checkbox" name="name_me" checked/> name me</label></p>
    <p class="question">${info.consent}</p>
    <p><label class="check"><input type="checkbox" name="agreed" required/> I agree to this, and the texts are mine to give.</label></p>
    <${Failure} error=${state.error}/><${Progress} state=${state}/><${Given} given=${state.done}/>
    <button class="main" disabled=${state.busy}>Check, sign and give</button></form><//>`;
}

export function Progress({ state }) {
  if (!state.busy) return null;
  const { stage, done, total } = state.progress ?? {};
  return html`<p role="status">${stage ?? "One moment"} …${total ? html` <progress max=${total} value=${done} aria-label=${stage}></progress>` : ""}</p>`;
}

function Given({ given }) {
  if (!given) return null;
  return html`<p role="status"><b class=${given.num_kept ? "good" : "bad"}>${many(given.num_kept, "document")} kept, ${number(given.num_refused)} refused.</b></p><${Findings} findings=${given.findings}/>`;
}

function Findings({ findings }) {
  const kinds = { refuse: "bad", hold: "note", note: "" };
  return html`<ul class="found">${findings.map((one) => html`<li><${Tag} kind=${kinds[one.outcome]}>${one.outcome}<//> ${one.document ? `document ${one.document}${one.title ? ` (${one.title.slice(0, 60)})` : ""}: ` : ""}${one.detail || one.code}${one.mend && html`<span class="mend">→ ${one.mend}</span>`}</li>`)}</ul>`;
}

function Invite({ info }) {
  const [state, submit] = useDone((given) => ask(`${ROOT}/${info.id}/invite`, { body: { uses: Number(given.uses), days: Number(given.days) } }));
  return html`<${Card} title="Invite people" cmd=${`lorikeet datanet invite ${info.name}`}><form onSubmit=${submit}><div class="form">
      <label>how many may use it <input name="uses" type="number" min="1" value="1"/></label><label>for how many days <input name="days" type="number" min="1" value="7"/></label></div>
    <${Failure} error=${state.error}/>${state.done && html`<p>Give them this word:</p><pre class="log" tabindex="0" role="region" aria-label="The invite">${state.done.token}</pre><${Qr} text=${state.done.token} label="The invite, for a phone to pass on"/>`}
    <button disabled=${state.busy}>Make an invite</button></form><//>`;
}

function People({ info, detail }) {
  return html`<${Card} title="People" cmd=${`lorikeet datanet show ${info.name}`}><${Table} caption="People" rows=${detail.people} keyOf=${(one) => one.peer_id} empty="Nobody."
    columns=${[{ name: "Name", of: (one) => one.name || "–" }, { name: "Role", of: (one) => one.role }, { name: "Accepted", right: true, of: (one) => one.accepted }, { name: "Peer", of: (one) => html`<${Id} text=${one.peer_id}/>` }]}/><//>`;
}

const MOST_SHOWN = 20_000;

function useText(path) {
  const [state, setState] = useState({});
  const load = () => send(path).then((response) => response.text()).then((text) => setState({ text }), (error) => setState({ error }));
  return [state, load];
}

// One contribution: the report beside the text, and a decision.
function Judge({ datanet, contribution }) {
  const [again, setAgain] = useState(0);
  const { value, error } = useAsked(`${ROOT}/${encodeURIComponent(datanet)}`, again);
  const [text, load] = useText(`${ROOT}/${encodeURIComponent(datanet)}/texts/${contribution}`);
  const [report, look] = useDone((_given, onProgress) => follow(`${ROOT}/${encodeURIComponent(datanet)}/queue`, {}, onProgress));
  const [state, submit] = useDone(async (given) => {
    const body = { subject: contribution, decision: given.decision };
    if (given.decision !== "accept") Object.assign(body, { code: "curator", detail: given.detail, mend: given.mend });
    const done = await ask(`${ROOT}/${encodeURIComponent(datanet)}/judge`, { body });
    setAgain(again + 1);
    return done;
  });
  const back = html`<p><a href=${link("datanets", [datanet])}>← ${datanet}</a></p>`;
  if (error) return html`${back}<${Failure} error=${error}/>`;
  if (!value) return html`${back}<${Waiting}/>`;
  const one = value.contributions.find((each) => each.id === contribution);
  if (!one) return html`${back}<${Empty}>There is no such contribution.<//>`;
  const council = value.info.role === "owner" || value.info.role === "curator";
  const findings = report.done?.find((each) => each.id === contribution)?.findings ?? one.findings;
  return html`${back}<div class="grid">
    <${Card} title=${one.title || "untitled"} cmd=${`lorikeet datanet text ${datanet} ${contribution.slice(0, 8)}`}>
      <p><${Tag} kind=${KINDS[one.state]}>${one.state}<//> by ${one.name || "somebody"}: ${many(one.documents, "document")}, ${number(one.words)} words, ${size(one.size_bytes)}, ${one.licence}</p>
      <${Failure} error=${text.error}/>
      ${text.text === undefined ? html`<p><button type="button" onClick=${load}>Read it</button></p>` : html`<pre class="log" tabindex="0" role="region" aria-label="The text">${text.text.slice(0, MOST_SHOWN)}${text.text.length > MOST_SHOWN ? "\n…" : ""}</pre>`}<//>
    <${Card} title="What the checks found" cmd=${`lorikeet datanet queue ${datanet}`}>
      ${findings.length ? html`<${Findings} findings=${findings}/>` : html`<${Empty}>${report.done ? "The checks found nothing." : "Not looked at here yet."}<//>`}
      <${Failure} error=${report.error}/><${Progress} state=${report}/>
      ${council && html`<form onSubmit=${look}><button disabled=${report.busy}>Run the checks</button></form>`}<//>
    ${council && one.state === "waiting" && html`<${Card} title="Decide" cmd=${`lorikeet datanet accept ${datanet} ${contribution.slice(0, 8)}`}><form onSubmit=${submit}>
      <fieldset><legend>decision</legend>${["accept", "hold", "refuse"].map((word) => html`<label class="check"><input type="radio" name="decision" value=${word} required/> ${word}</label>`)}</fieldset>
      <div class="form"><label>why, where it is not accepted <input name="detail"/></label><label>what would mend it <input name="mend"/></label></div>
      <${Failure} error=${state.error}/>${state.done && html`<p role="status" class="good">Signed: ${state.done.state}.</p>`}<button class="main" disabled=${state.busy}>Sign the decision</button></form><//>`}</div>`;
}
