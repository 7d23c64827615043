// What somebody does with a node's public page in another browser than Chromium, as far as Debian has it:
// node others.mjs firefox|webkit EXECUTABLE URL WALLET. Says figures as JSON at the end, or throws.
//
// Firefox is driven by WebDriver BiDi, WebKitGTK by its own WebDriver; of each only `open` and
// `evaluate` are used. The packages are those of web/.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TestWallet } from "./wallet.mjs";

const { WebSocket } = createRequire(new URL("../../web/package.json", import.meta.url))("ws");
const DEADLINE_MS = 120_000;
const LOOK_MS = 50;

// ---- the browsers ----

// What a process says on its standard error, until it says this.
function started(process, pattern) {
  return new Promise((resolve, reject) => {
    let said = "";
    const hear = (more) => {
      said += more;
      const found = pattern.exec(said);
      if (found) resolve(found);
    };
    process.stderr.on("data", hear);
    process.stdout.on("data", hear);
    process.on("error", reject);
    process.on("exit", () => reject(new Error(`it ended as it began: ${said.slice(-1000)}`)));
    setTimeout(() => reject(new Error(`it did not start: ${said.slice(-1000)}`)), DEADLINE_MS).unref();
  });
}

class Firefox {
  static async start(executable, folder) {
    const process = spawn(executable, ["--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"], { stdio: ["ignore", "pipe", "pipe"] });
    const [, address] = await started(process, /WebDriver BiDi listening on (ws:\S+)/);
    const socket = new WebSocket(`${address}/session`);
    await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
    const firefox = new Firefox(process, socket);
    await firefox.ask("session.new", { capabilities: {} });
    const { contexts } = await firefox.ask("browsingContext.getTree", {});
    firefox.context = contexts[0].context;
    return firefox;
  }

  constructor(process, socket) {
    Object.assign(this, { process, socket, next: 1, waiting: new Map() });
    socket.on("message", (bytes) => {
      const { id, type, result, message } = JSON.parse(bytes);
      const waiting = this.waiting.get(id);
      if (type === "success") waiting?.resolve(result);
      else waiting?.reject(new Error(message));
    });
  }

  ask(method, params) {
    const id = this.next++;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  open(url) {
    return this.ask("browsingContext.navigate", { context: this.context, url, wait: "complete" });
  }

  async evaluate(script) {
    const expression = `JSON.stringify((() => { ${script} })() ?? null)`;
    const { type, result, exceptionDetails } = await this.ask("script.evaluate", { expression, target: { context: this.context }, awaitPromise: false });
    if (type === "exception") throw new Error(exceptionDetails.text);
    return JSON.parse(result.value);
  }

  stop() {
    this.process.removeAllListeners("exit");
    this.process.kill("SIGKILL");
  }
}

class WebKit {
  static async start(executable) {
    const port = 20_000 + (process.pid % 20_000);
    const driver = spawn(executable, [`--port=${port}`], { stdio: ["ignore", "pipe", "pipe"] });
    const webkit = new WebKit(driver, `http://127.0.0.1:${port}`);
    for (const until = Date.now() + DEADLINE_MS; ; await pause()) {
      const isUp = await fetch(`${webkit.address}/status`).then((one) => one.ok, () => false);
      if (isUp) break;
      if (Date.now() > until) throw new Error("WebKitWebDriver did not start");
    }
    const { sessionId } = await webkit.ask("/session", { capabilities: { alwaysMatch: { "webkitgtk:browserOptions": { args: ["--automation", "--private"] } } } });
    webkit.session = `/session/${sessionId}`;
    return webkit;
  }

  constructor(process, address) {
    Object.assign(this, { process, address });
  }

  async ask(path, body) {
    const response = await fetch(this.address + path, { method: "POST", body: JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${value.error}: ${value.message}`);
    return value;
  }

  open(url) {
    return this.ask(`${this.session}/url`, { url });
  }

  evaluate(script) {
    return this.ask(`${this.session}/execute/sync`, { script: `return (() => { ${script} })() ?? null`, args: [] });
  }

  async stop() {
    await fetch(this.address + this.session, { method: "DELETE" }).catch(() => {});
    this.process.kill("SIGKILL");
  }
}

// ---- what is done with them ----

const pause = () => new Promise((wake) => setTimeout(wake, LOOK_MS));

// Until the script gives something; the wallet answers meanwhile.
async function until(browser, wallet, what, script) {
  for (const end = Date.now() + DEADLINE_MS; Date.now() < end; await pause()) {
    for (const { id, asked } of (await browser.evaluate("return window.forWallet?.splice(0)")) ?? []) await browser.evaluate(`window.fromWallet(${id}, ${JSON.stringify(wallet.request(asked))})`);
    const found = await browser.evaluate(script);
    if (found) return found;
  }
  const text = await browser.evaluate("return document.body.innerText");
  throw new Error(`${what} did not come:\n${text}`);
}

// A wallet whose questions lie there until somebody answers them.
const WALLET = `
  const waiting = new Map();
  window.forWallet = [];
  window.fromWallet = (id, answer) => waiting.get(id)(answer);
  window.ethereum = { request: ({ method, params }) => new Promise((resolve) => {
    const id = waiting.size + 1;
    waiting.set(id, resolve);
    window.forWallet.push({ id, asked: { method, params } });
  }) };`;
const TURN = `JSON.parse(localStorage.getItem("lorikeet.web.chat") ?? "[]").at(-1)`;
const click = (kind, name) => `const found = [...document.querySelectorAll(${JSON.stringify(kind)})].find((one) => one.textContent.trim() === ${JSON.stringify(name)} && !one.disabled); found?.click(); return Boolean(found)`;

async function visit(browser, wallet, url) {
  await browser.open("about:blank");
  await browser.open(url);
  await until(browser, wallet, "a connection", `return document.documentElement.dataset.ready`);
  await browser.evaluate(WALLET);
}

async function ask(browser, wallet, question) {
  await browser.evaluate(`const box = document.getElementById("question");
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, ${JSON.stringify(question)});
    box.dispatchEvent(new Event("input", { bubbles: true }));`);
  await until(browser, wallet, "the button", click("form.ask button", "Ask"));
}

async function answered(browser, wallet, question) {
  await ask(browser, wallet, question);
  const turn = await until(browser, wallet, "an answer", `const turn = ${TURN}; return turn?.question === ${JSON.stringify(question)} && ["done", "failed"].includes(turn.state) ? turn : null`);
  assert.equal(turn.error, undefined);
  return turn;
}

// One signature of the wallet, vouchers, a receipt that both signed; a page that is left in the middle of
// an answer is back, and what broke off is settled; what is left goes back to the wallet.
async function play(browser, url, wallet) {
  await visit(browser, wallet, `${url}/#/ask?m=law`);
  const first = await answered(browser, wallet, "May the President pardon?");
  assert.ok(first.finish.receipt && first.finish.isSettled && first.finish.amount > 0, JSON.stringify(first));
  await ask(browser, wallet, "And again?");
  await until(browser, wallet, "a first token", `const turn = ${TURN}; return turn.question === "And again?" && turn.tokens > 0`);
  await visit(browser, wallet, `${url}/#/ask?m=law`);
  assert.equal(await browser.evaluate(`return document.querySelectorAll("article .text").length`), 2);
  const third = await answered(browser, wallet, "Once more?");
  assert.ok(third.finish.receipt && third.finish.isSettled);
  assert.deepEqual(wallet.asked, ["eth_requestAccounts", "eth_signTypedData_v4"]);
  await until(browser, wallet, "the view of money", click("nav a", "Money"));
  const receipts = await until(browser, wallet, "the receipts", `return /([0-9]+) receipts/.exec(document.body.innerText)?.[1]`);
  await until(browser, wallet, "the way back", click("button", "Take back what is left"));
  await until(browser, wallet, "the money", `return document.body.innerText.includes("went back to your wallet")`);
  const { connect, name, manifest, offer, first: firstMs } = first.took;
  return { receipts: Number(receipts), tokens: [first.tokens, third.tokens], ms: { connect, name, manifest, offer, first: firstMs } };
}

const [, , kind, executable, url, secret] = process.argv;
const folder = mkdtempSync(join(tmpdir(), "lorikeet-browser-"));
const browser = await { firefox: Firefox, webkit: WebKit }[kind].start(executable, folder);
try {
  console.log(JSON.stringify(await play(browser, url, new TestWallet(secret))));
} finally {
  await browser.stop();
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
}
process.exit(0);
