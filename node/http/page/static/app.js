// The frame: where one can go, what is shown there, and whether the node still speaks.

import { address, effect, html, render, signal, useEffect, useRef, useState } from "./lib.js";
import { link as stream, open, parts } from "./live.js";

const VIEWS = {
  home: ["Home", () => import("./views/home.js")],
  chat: ["Chat", () => import("./views/chat.js")],
  adapters: ["Adapters", () => import("./views/adapters.js")],
  receipts: ["Receipts", () => import("./views/receipts.js")],
  peers: ["Peers", () => import("./views/peers.js")],
  engine: ["Engine", () => import("./views/engine.js")],
  datanets: ["Datanets", () => import("./views/datanets.js")],
  factory: ["Factory", () => import("./views/factory.js")],
  governance: ["Governance", () => import("./views/governance.js")],
  logs: ["Logs", () => import("./views/logs.js")],
};

const theme = signal(localStorage.getItem("lorikeet.theme") ?? "");
effect(() => {
  document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("lorikeet.theme", theme.value);
});

function Theme() {
  const next = { "": "light", light: "dark", dark: "" }[theme.value];
  const names = { "": "as the system", light: "light", dark: "dark" };
  return html`<button type="button" class="quiet" onClick=${() => (theme.value = next)}
    aria-label=${`Colours: ${names[theme.value]}; change to ${names[next]}`}>${{ "": "◐", light: "☀", dark: "☾" }[theme.value]}</button>`;
}

function Link() {
  const words = { opening: "connecting …", open: "live", lost: "the node does not answer; trying again" };
  return html`<p class=${`link ${stream.value}`} role="status">${words[stream.value]}</p>`;
}

function App() {
  const { view } = address.value;
  const known = VIEWS[view];
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the content</a>
    <header class="bar">
      <a class="brand" href="#/"><img src="/page/icon.svg" alt="" width="24" height="24"/>Lorikeet</a>
      <nav aria-label="Parts of this page"><ul>
        ${Object.entries(VIEWS).map(([name, [title]]) => html`<li>
          <a href=${`#/${name === "home" ? "" : name}`} aria-current=${name === view ? "page" : undefined}>${title}</a></li>`)}
      </ul></nav>
      <div class="end"><${Link}/><${Theme}/></div>
    </header>
    <main id="main" tabindex="-1">
      ${known ? html`<${View} key=${view} name=${view} load=${known[1]} title=${known[0]}/>`
        : html`<h1>There is no such part</h1><p>Nothing is at <code>#/${view}</code>. <a href="#/">Home</a> has the rest.</p>`}
    </main>`;
}

function View({ load, title }) {
  const [Shown, setShown] = useState(null);
  const [error, setError] = useState(null);
  const heading = useRef(null);
  useEffect(() => {
    load().then((module) => setShown(() => module.default), setError);
    document.title = `${title} · Lorikeet`;
    showCurrent();
    if (moved) heading.current?.focus();
    moved = true;
  }, []);
  return html`<h1 ref=${heading} tabindex="-1">${title}</h1>
    ${error ? html`<p class="failure" role="alert">This part could not be loaded: ${error.message}</p>` : Shown && html`<${Shown}/>`}`;
}

// On a phone the parts are wider than the screen. (scrollIntoView would move where Tab begins.)
function showCurrent() {
  const current = document.querySelector("nav a[aria-current]");
  const nav = document.querySelector("nav");
  if (current) nav.scrollLeft = current.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2;
}

let moved = false; // the first view takes no focus: nobody went there

open();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App}/>`, root);
effect(() => {
  if (parts.status.value) document.documentElement.dataset.ready = "yes";
});
