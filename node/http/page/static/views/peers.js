// Who is connected, found by transport, role and what replays said of them.

import { Card, Failure, Id, Table, Tag, Waiting, address, html, keep, many, number } from "../lib.js";
import { failures, parts } from "../live.js";

const TRANSPORTS = { tcp: "TCP", ws: "WebSocket", relay: "by a relay" };

function transport(one) {
  if (one.address.includes("/p2p-circuit")) return "relay";
  return /\/wss?($|\/)/.test(one.address) ? "ws" : "tcp";
}

export default function Peers() {
  const peers = parts.peers.value;
  if (!peers) return failures.value.peers ? html`<${Failure} error=${failures.value.peers}/>` : html`<${Waiting}/>`;
  const { query } = address.value;
  const by = { q: query.get("q") ?? "", transport: query.get("transport") ?? "", role: query.get("role") ?? "", trust: query.get("trust") ?? "" };
  const rejected = parts.status.value?.rejections ?? [];
  const fits = (one) =>
    (!by.q || `${one.peer_id} ${one.address}`.toLowerCase().includes(by.q.toLowerCase())) &&
    (!by.transport || transport(one) === by.transport) &&
    (!by.role || one.roles.includes(by.role)) &&
    (!by.trust || one.weight < 1);
  const shown = peers.filter(fits);
  const roles = [...new Set(peers.flatMap((one) => one.roles))].sort();
  return html`<${Card} title=${`${many(peers.length, "peer")} connected`} cmd="lorikeet peers">
    <div class="form" role="search">
      <label>peer or address <input type="search" value=${by.q} onInput=${(event) => keep({ q: event.target.value })}/></label>
      <label>transport <select value=${by.transport} onChange=${(event) => keep({ transport: event.target.value })}>
        <option value="">any</option>${Object.entries(TRANSPORTS).map(([name, words]) => html`<option value=${name}>${words}</option>`)}</select></label>
      <label>role <select value=${by.role} onChange=${(event) => keep({ role: event.target.value })}>
        <option value="">any</option>${roles.map((name) => html`<option>${name}</option>`)}</select></label>
      <label class="check"><input type="checkbox" checked=${by.trust !== ""} onChange=${(event) => keep({ trust: event.target.checked ? "less" : "" })}/> trusted less than others</label>
    </div>
    <p role="status" class="soft">${shown.length === peers.length ? "" : `${shown.length} of ${peers.length} shown`}</p>
    <${Table} caption="Peers" rows=${shown} keyOf=${(one) => one.peer_id} empty=${peers.length ? "No peer fits these filters." : "No peers yet: the doctor on Home says why."}
      columns=${[
        { name: "Peer", of: (one) => html`<${Id} text=${one.peer_id}/>` },
        { name: "Address", of: (one) => html`<code>${one.address || "–"}</code>` },
        { name: "Transport", of: (one) => TRANSPORTS[transport(one)] },
        { name: "Roles", of: (one) => (one.roles.length ? one.roles.map((role) => html`<${Tag}>${role}<//> `) : "–") },
        { name: "False claims", right: true, of: (one) => rejected.filter(([, peer]) => peer === one.peer_id).length || "–" },
        { name: "Weight", right: true, of: (one) => html`<span class=${one.weight < 1 ? "bad" : ""}>${number(one.weight, 2)}</span>` },
      ]}/>
    <p class="soft">Weight is 1 unless replays of a peer's answers spoke against it.</p>
  <//>`;
}
