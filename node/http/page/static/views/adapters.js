// What is here and what the network knows: search, sizes, licences, creators; fetch one and stop.

import { Card, Empty, Failure, Figure, Id, Table, Tag, Waiting, address, ask, go, html, keep, link, many, money, number, signal, size, useAsked, useEffect, useState, when } from "../lib.js";
import { failures, parts } from "../live.js";

const pulls = signal({}); // what this page is fetching: stop handles, and what became of each

const WHY = { published: "published here", pulled: "pulled", asked: "asked for by strangers", ahead: "fetched ahead", mixed: "mixed in memory" };

async function pull(name) {
  const stop = new AbortController();
  const set = (state) => (pulls.value = { ...pulls.value, [name]: state });
  set({ stop });
  try {
    set({ report: await ask("/lorikeet/v1/pull", { body: { model: name }, signal: stop.signal }) });
  } catch (error) {
    set(error.name === "AbortError" ? { stopped: true } : { error });
  }
}

async function unpin(name) {
  try {
    await ask("/lorikeet/v1/unpin", { body: { model: name } });
    pulls.value = { ...pulls.value, [name]: { unpinned: true } };
  } catch (error) {
    pulls.value = { ...pulls.value, [name]: { error } };
  }
}

export default function Adapters() {
  const name = address.value.parts[0];
  return name ? html`<${One} name=${name}/>` : html`<${All}/>`;
}

function useFound() {
  const { query } = address.value;
  const by = { q: query.get("q") ?? "", where: query.get("where") ?? "", licence: query.get("licence") ?? "", language: query.get("language") ?? "" };
  const [found, setFound] = useState({});
  const asks = by.q || by.licence || by.language;
  const key = JSON.stringify([by.q, by.licence, by.language]);
  useEffect(() => {
    if (!asks) return undefined;
    const stop = new AbortController();
    const body = { words: by.q.split(/\s+/).filter(Boolean), licence: by.licence, language: by.language };
    const timer = setTimeout(() => ask("/lorikeet/v1/search", { body, signal: stop.signal }).then(
      (value) => setFound({ key, value }), (error) => error.name !== "AbortError" && setFound({ key, error })), 200);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [key]);
  const told = parts.adapters.value;
  const listed = asks ? (found.key === key ? found.value : undefined) : told?.first;
  const here = new Map((parts.held.value ?? []).map((one) => [one.cid, one]));
  const rows = listed?.filter((one) => !by.where || (by.where === "here") === (here.has(one.cid) || one.state !== "known"));
  return { by, rows, here, total: asks ? listed?.length : told?.total, error: asks ? found.key === key && found.error : failures.value.adapters };
}

function All() {
  const { by, rows, here, total, error } = useFound();
  const set = (name) => (event) => keep({ [name]: event.target.value });
  const arriving = parts.arriving.value ?? [];
  return html`
    ${arriving.length > 0 && html`<${Card} title="On its way" cmd="lorikeet pull NAME">${arriving.map((one) => html`<${Arriving} key=${one.cid} one=${one}/>`)}<//>`}
    <${Card} title=${total === undefined ? "Adapters" : many(total, "adapter")} cmd=${by.q ? `lorikeet search ${by.q}` : "lorikeet list"}>
    <div class="form" role="search">
      <label>what it is about <input type="search" value=${by.q} onInput=${set("q")} placeholder="court, salt, tides …"/></label>
      <label>where <select value=${by.where} onChange=${set("where")}><option value="">here or known</option><option value="here">here</option><option value="known">known in the network</option></select></label>
      <label>licence <input value=${by.licence} onChange=${set("licence")} placeholder="any, or CC0-1.0"/></label>
      <label>language <input value=${by.language} onChange=${set("language")} placeholder="any, or en"/></label></div>
    <${Failure} error=${error}/>
    ${rows ? html`<${Table} caption="Adapters" rows=${rows} keyOf=${(one) => one.cid}
      empty=${by.q || by.where || by.licence || by.language ? "Nothing fits. Fewer words find more." : "No adapters are known yet: they are heard of from peers, or published with lorikeet push."}
      columns=${[
        { name: "Name", of: (one) => html`<a href=${link("adapters", [one.name])}>${one.name}</a>` },
        { name: "About", of: (one) => one.description || "–" },
        { name: "State", of: (one) => html`<${State} one=${one} held=${here.get(one.cid)}/>` },
        { name: "Size", right: true, of: (one) => size(one.size_bytes) },
        { name: "Providers", right: true, of: (one) => one.providers },
        { name: "Licence", of: (one) => one.licence },
        { name: "Creator", of: (one) => html`<${Id} text=${one.creator}/>` },
        { name: "Do", right: true, of: (one) => html`<${Do} one=${one} held=${here.get(one.cid)}/>` },
      ]}/>` : !error && html`<${Waiting}/>`}
    ${!by.q && rows && total > (parts.adapters.value?.first.length ?? 0) && html`<p class="soft">The first ${rows.length} of ${number(total)}; a search looks through all.</p>`}
  <//>`;
}

function State({ one, held }) {
  if (held) return html`<${Tag} kind="good">here<//> <span class="soft">${WHY[held.why]}</span>`;
  return one.state === "known" ? html`<${Tag}>known<//>` : html`<${Tag} kind="good">here<//>`;
}

function Do({ one, held }) {
  const going = pulls.value[one.name];
  const arriving = (parts.arriving.value ?? []).find((each) => each.cid === one.cid);
  if (going?.stop) return html`<${Progress} arriving=${arriving}/> <button type="button" class="risky" onClick=${() => going.stop.abort()}>Cancel</button>`;
  return html`<a class="button" href=${link("chat", [], { m: one.name })}>Ask</a>${" "}
    ${!held && one.state === "known" ? html`<button type="button" onClick=${() => pull(one.name)}>Pull</button>`
      : held?.why === "pulled" && !going?.unpinned ? html`<button type="button" onClick=${() => unpin(one.name)}>Unpin</button>` : ""}
    ${going?.error && html`<p class="failure" role="alert">${going.error.message}</p>`}
    ${going?.stopped && html`<small class="soft" role="status"> stopped; what came is kept</small>`}`;
}

function Progress({ arriving }) {
  if (!arriving) return html`<span role="status">looking for who has it …</span>`;
  return html`<progress max=${arriving.size_bytes} value=${arriving.done_bytes} aria-label=${`${arriving.name}: ${size(arriving.done_bytes)} of ${size(arriving.size_bytes)}`}></progress>`;
}

function Arriving({ one }) {
  return html`<p><b>${one.name}</b> ${size(one.done_bytes)} of ${size(one.size_bytes)} <${Progress} arriving=${one}/></p>`;
}

function One({ name }) {
  const told = parts.adapters.value;
  const here = (parts.held.value ?? []).find((one) => one.name === name);
  const one = told?.first.find((each) => each.name === name);
  const owner = one ? `${one.creator}/${one.name}` : name;
  const versions = useAsked(one ? `/lorikeet/v1/versions/${owner}` : null);
  const report = pulls.value[name]?.report;
  if (!told) return html`<${Waiting}/>`;
  if (!one) return html`<p><a href=${link("adapters")}>← all adapters</a></p><${Empty}>“${name}” is not among those that are heard of here. <a href=${link("adapters", [], { q: name })}>Search for it</a>.<//>`;
  const facts = { State: html`<${State} one=${one} held=${here}/>`, Version: one.version || "–", Size: size(one.size_bytes), Providers: many(one.providers, "node"), Licence: one.licence, Languages: one.languages.join(", ") || "–", Creator: html`<${Id} text=${one.creator}/>`, CID: html`<${Id} text=${one.cid}/>`, "Wanted last": when(here?.used_at) };
  return html`<p><a href=${link("adapters")}>← all adapters</a></p>
    <div class="grid"><${Card} title=${one.name} cmd="lorikeet list --json"><p>${one.description || "Its creator says nothing of it."}</p>
      <dl class="facts">${Object.entries(facts).map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}</dl><div class="row"><${Do} one=${one} held=${here}/></div><//>
      <${Card} title="Versions" cmd=${`lorikeet versions ${owner}`}>
        <${Failure} error=${versions.error}/>
        ${versions.value && html`<${Table} caption="Versions" rows=${versions.value} keyOf=${(each) => each.name} empty="No versions are known."
          columns=${[{ name: "Version", of: (each) => each.name }, { name: "Signed", of: (each) => when(each.signed_at) }, { name: "", of: (each) => (each.is_meant ? html`<${Tag} kind="good">meant by the name<//>` : each.cid === null ? html`<${Tag} kind="bad">withdrawn<//>` : "") }]}/>`}<//>
      ${report && html`<${Card} title="How it came" cmd=${`lorikeet pull ${name}`}><dl class="figures"><${Figure} label="found in" value=${number(report.lookup_ms)} unit="ms"/><${Figure} label="fetched in" value=${number(report.fetch_ms)} unit="ms"/><${Figure} label="loaded in" value=${number(report.load_ms)} unit="ms"/></dl>
        <${Table} caption="Who gave blocks" rows=${Object.entries(report.blocks_by_peer)} keyOf=${([peer]) => peer} empty="All of it was here." columns=${[{ name: "From", of: ([peer]) => html`<${Id} text=${peer}/>` }, { name: "Blocks", right: true, of: ([, count]) => count }]}/>
        ${report.rejected.map(([peer, , reason]) => html`<p class="notice"><${Id} text=${peer}/> gave a false block: ${reason}</p>`)}<//>`}</div>`;
}
