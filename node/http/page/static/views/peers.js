// Who is connected, found by transport, role, traffic, silence and what replays said of them; who is
// banned, and how that is lifted.

import { Card, Failure, Id, Table, Tag, Waiting, address, ask, html, keep, many, number, size, span, useEffect, useRef, useState, when } from "../lib.js";
import { failures, parts } from "../live.js";

const TRANSPORTS = { tcp: "TCP", ws: "WebSocket", relay: "by a relay" };
const HEARD = { now: ["within a minute", (quiet) => quiet <= 60], quiet: ["not for a minute", (quiet) => quiet > 60], long: ["not for ten minutes", (quiet) => quiet > 600] };
const TRAFFIC = { "1e5": "100 kB", "1e6": "1 MB", "1e7": "10 MB", "1e9": "1 GB" };
const ORDERS = { heard: ["heard last", (one) => -one.heard_at], traffic: ["most traffic", (one) => -traffic(one)], weight: ["least weight", (one) => one.weight] };

function transport(one) {
  if (one.address.includes("/p2p-circuit")) return "relay";
  return /\/wss?($|\/)/.test(one.address) ? "ws" : "tcp";
}

const traffic = (one) => one.received_bytes + one.sent_bytes;
const quiet = (one) => Math.max(0, Date.now() / 1000 - one.heard_at);

export default function Peers() {
  const peers = parts.peers.value;
  if (!peers) return failures.value.peers ? html`<${Failure} error=${failures.value.peers}/>` : html`<${Waiting}/>`;
  return html`<${Connected} peers=${peers}/><${Banned}/>`;
}

function Choice({ name, label, options }) {
  return html`<label>${label} <select value=${address.value.query.get(name) ?? ""} onChange=${(event) => keep({ [name]: event.target.value })}>
    <option value="">${name === "order" ? "as they came" : "any"}</option>${Object.entries(options).map(([value, words]) => html`<option value=${value}>${[words].flat()[0]}</option>`)}</select></label>`;
}

function Connected({ peers }) {
  const { query } = address.value;
  const by = (name) => query.get(name) ?? "";
  const rejected = parts.status.value?.rejections ?? [];
  const banned = new Set((parts.banned.value ?? []).map((one) => one.peer_id));
  const roles = [...new Set(peers.flatMap((one) => one.roles))].sort();
  const fits = (one) =>
    !banned.has(one.peer_id) &&
    (!by("q") || `${one.peer_id} ${one.address}`.toLowerCase().includes(by("q").toLowerCase())) &&
    (!by("transport") || transport(one) === by("transport")) &&
    (!by("role") || one.roles.includes(by("role"))) &&
    (!HEARD[by("heard")] || HEARD[by("heard")][1](quiet(one))) &&
    (!by("traffic") || traffic(one) >= Number(by("traffic"))) &&
    (!by("trust") || one.weight < 1);
  const shown = peers.filter(fits);
  const order = ORDERS[by("order")];
  if (order) shown.sort((one, other) => order[1](one) - order[1](other));
  const claims = (one) => rejected.filter(([, peer]) => peer === one.peer_id).length;
  return html`<${Card} title=${`${many(peers.length, "peer")} connected`} cmd=${["lorikeet peers", "lorikeet status --json"]}>
    <div class="form narrow" role="search">
      <label>peer or address <input type="search" value=${by("q")} onInput=${(event) => keep({ q: event.target.value })}/></label>
      <${Choice} name="transport" label="transport" options=${TRANSPORTS}/>
      <${Choice} name="role" label="role" options=${Object.fromEntries(roles.map((one) => [one, one]))}/>
      <${Choice} name="heard" label="heard" options=${HEARD}/>
      <${Choice} name="traffic" label="traffic, at least" options=${TRAFFIC}/>
      <${Choice} name="order" label="order" options=${ORDERS}/>
      <label class="check"><input type="checkbox" checked=${by("trust") !== ""} onChange=${(event) => keep({ trust: event.target.checked ? "less" : "" })}/> trusted less than others</label>
    </div>
    <p role="status" class="soft">${shown.length === peers.length ? "" : `${shown.length} of ${peers.length} shown`}</p>
    <${Table} caption="Peers" rows=${shown} keyOf=${(one) => one.peer_id} empty=${peers.length ? "No peer fits these filters." : "No peers yet: the doctor on Home says why."}
      columns=${[
        { name: "Peer", of: (one) => html`<${Id} text=${one.peer_id}/>` },
        { name: "Address", of: (one) => html`<code>${one.address || "–"}</code> <span class="soft">${TRANSPORTS[transport(one)]}</span>` },
        { name: "Roles", of: (one) => (one.roles.length ? one.roles.map((role) => html`<${Tag}>${role}<//> `) : "–") },
        { name: "Heard", right: true, of: (one) => (one.heard_at ? `${span(quiet(one))} ago` : "–") },
        { name: "Received", right: true, of: (one) => size(one.received_bytes) },
        { name: "Sent", right: true, of: (one) => size(one.sent_bytes) },
        { name: "False claims", right: true, of: (one) => claims(one) || "–" },
        { name: "Weight", right: true, of: (one) => html`<span class=${one.weight < 1 ? "bad" : ""}>${number(one.weight, 2)}</span>` },
        { name: "Ban", right: true, of: (one) => html`<button type="button" class="quiet" aria-label=${`Ban ${one.peer_id}`} onClick=${() => keep({ ban: one.peer_id })}>Ban …</button>` },
      ]}/>
    <p class="soft">Received and sent count all connections since this node began. Weight is 1 unless replays of a peer's answers, or what it signed or sent, spoke against it.</p>
  <//>`;
}

function Banned() {
  const [state, setState] = useState({});
  const field = useRef(null);
  const wanted = address.value.query.get("ban") ?? "";
  const banned = parts.banned.value;
  useEffect(() => {
    if (wanted) field.current?.focus();
  }, [wanted]);
  const tell = async (word, body) => {
    setState({ busy: true });
    try {
      parts.banned.value = await ask(`/lorikeet/v1/${word}`, { body });
      setState({});
      return true;
    } catch (error) {
      setState({ error });
      return false;
    }
  };
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    if (await tell("ban", { peer: wanted.trim(), why: form.elements.why.value })) {
      keep({ ban: "" });
      form.reset();
    }
  };
  return html`<${Card} title="Banned" cmd=${wanted ? `lorikeet peers ban ${wanted}` : "lorikeet peers banned"}>
    <form onSubmit=${submit}><div class="form">
      <label>peer id <input required value=${wanted} onInput=${(event) => keep({ ban: event.target.value })} autocomplete="off"/></label>
      <label>why, for yourself <input name="why" ref=${field} maxlength="200"/></label>
      <p><button class="risky" disabled=${state.busy || !wanted.trim()}>Ban this peer</button></p></div></form>
    <${Failure} error=${state.error ?? failures.value.banned}/>
    ${!banned ? !failures.value.banned && html`<${Waiting}/>` : html`<${Table} caption="Banned peers" rows=${banned} keyOf=${(one) => one.peer_id} empty="Nobody is banned."
      columns=${[
        { name: "Peer", of: (one) => html`<${Id} text=${one.peer_id}/>` },
        { name: "Since", of: (one) => when(one.since) },
        { name: "Why", of: (one) => one.why || "–" },
        { name: "Lift", right: true, of: (one) => html`<button type="button" class="quiet" disabled=${state.busy} aria-label=${`Lift the ban of ${one.peer_id}`} onClick=${() => tell("unban", { peer: one.peer_id })}>Lift</button>` },
      ]}/>`}
    <p class="soft">A banned peer is hung up on and refused, also after a restart. With a new key it is another peer.</p>
  <//>`;
}
