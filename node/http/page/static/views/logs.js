// What the node says as it goes, whom it caught, whether others reach it, and a report to paste.

import { Card, Empty, Failure, Figure, Id, Table, Tag, Waiting, address, html, keep, many, send, useAsked, useState } from "../lib.js";
import { failures, parts } from "../live.js";
import { Health } from "./home.js";

const REACH = { reachable: "others can dial this node", behind: "it is behind a router", unknown: "nobody has tried yet" };

export default function Logs() {
  return html`<${Health}/><div class="grid"><${Reach}/><${Report}/></div><${Rejections}/><${Log}/>`;
}

function Reach() {
  const status = parts.status.value;
  if (!status) return html`<${Card} title="My reachability"><${Waiting}/><//>`;
  const reach = status.reach ?? {};
  return html`<${Card} title="My reachability" cmd="lorikeet status"><p><b>${REACH[reach.state] ?? "not known"}</b>
      ${reach.state === "behind" && !reach.relays?.length && !reach.mapped_port && ": nobody finds it until a relay takes it, or its port is forwarded."}</p>
    <dl class="facts"><dt>by relays</dt><dd>${reach.relays?.length ? reach.relays.map((one) => html`<${Id} text=${one}/> `) : "none"}</dd>
      <dt>port at the router</dt><dd>${reach.mapped_port ?? "none"}</dd>
      <dt>listens on</dt><dd>${status.addresses.map((one) => html`<code>${one.replace(/\/p2p\/.*/, "")}</code><br/>`)}</dd></dl><//>`;
}

function Report() {
  const [text, setText] = useState("");
  const [state, setState] = useState("");
  const make = async () => {
    setState("Looking at every part …");
    try {
      setText(await (await send("/lorikeet/v1/report")).text());
      setState("");
    } catch (error) {
      setState(error.message);
    }
  };
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setState("Copied.");
    } catch {
      setState("The browser does not let the page copy; mark the text and copy it.");
    }
  };
  return html`<${Card} title="A report to paste in public" cmd="lorikeet bugreport"><p>It names no key, address, path, host or peer; read it before you paste it all the same.</p>
    <p class="row"><button type="button" onClick=${make}>Write it</button>${text && html`<button type="button" onClick=${copy}>Copy</button>`}<span role="status">${state}</span></p>
    ${text && html`<pre class="log" tabindex="0" role="region" aria-label="The report">${text}</pre>`}<//>`;
}

function Rejections() {
  const rejections = parts.status.value?.rejections;
  if (!rejections) return null;
  return html`<${Card} title="False claims by others" cmd="lorikeet status --json">
    <${Table} caption="False claims, newest first" rows=${[...rejections].reverse().map((one, index) => ({ one, index }))} keyOf=${({ index }) => index} empty="Nobody was caught at one since this node started."
      columns=${[{ name: "What", of: ({ one }) => html`<${Tag} kind="bad">${one[0]}<//>` }, { name: "By", of: ({ one }) => html`<${Id} text=${one[1]}/>` }, { name: "Why it is false", of: ({ one }) => one[2] }]}/><//>`;
}

function Log() {
  const q = address.value.query.get("q") ?? "";
  const { value: before, error } = useAsked("/lorikeet/v1/log");
  const live = parts.log.value;
  const earlier = before && live ? before.lines.slice(0, Math.max(0, live.first - before.first)) : [];
  const lines = [...earlier, ...(live?.lines ?? before?.lines ?? [])];
  const shown = q ? lines.filter((line) => line.toLowerCase().includes(q.toLowerCase())) : lines;
  return html`<${Card} title="Log, newest first" cmd="tail -f $LORIKEET_HOME/log">
    <${Failure} error=${error ?? failures.value.log}/>
    <div class="form" role="search"><label>only lines with <input type="search" value=${q} onInput=${(event) => keep({ q: event.target.value })}/></label></div>
    ${shown.length ? html`<pre class="log" tabindex="0" role="region" aria-label="The log">${[...shown].reverse().join("\n")}</pre>` : html`<${Empty}>${q ? `None of ${many(lines.length, "line")} has that.` : "It has said nothing yet."}<//>`}<//>`;
}
