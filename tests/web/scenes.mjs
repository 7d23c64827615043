// What somebody does with a node's public page, in a real Chromium: node scenes.mjs SCENE URL [more]
// Says figures as JSON at the end, or throws. The packages are those of tests/page.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { TestWallet, askChain } from "./wallet.mjs";

const require = createRequire(new URL("../page/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const DEADLINE_MS = 60_000;
const LAG_MS = 30;
const LATER_S = 86_400 + 600; // when a withdrawal's delay is over
const SHOTS = process.env.LORIKEET_SHOTS; // a folder for pictures, for people

const pause = () => new Promise((wake) => setTimeout(wake, LAG_MS));

// ---- the scenes ----

// It becomes a peer, finds an adapter by its name, and streams an answer; a reload keeps it; nobody else is asked.
async function free({ browser, page, url }) {
  const asked = [];
  const sockets = [];
  page.on("request", (request) => asked.push(request.url()));
  page.on("websocket", (one) => sockets.push(one.url()));
  await open(page, `${url}/#/ask?m=law`);
  const figures = await ask(page, "May the President pardon?");
  assert.deepEqual(asked.filter((one) => !one.startsWith(url)), []);
  assert.ok(sockets.every((one) => one.startsWith(url.replace("http", "ws"))), `${sockets}`);
  const answer = page.getByRole("article").first();
  await answer.getByText("What this page checked").click();
  await answer.getByText("the name is signed by its owner").waitFor();
  await answer.getByText("nothing was paid").waitFor();
  await shoot(page, "free");
  const text = await answer.locator(".text").innerText();
  await page.reload();
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  assert.equal(await page.getByRole("article").first().locator(".text").innerText(), text);
  await looks(browser, page, url);
  return figures;
}

// In a paid network: one signature of the wallet, vouchers as tokens come, a receipt that both sign; an
// answer that breaks off when the page is left is settled on the next visit; the rest goes back.
async function paid({ page, url, more: [secret, measuring] }) {
  const wallet = await giveWallet(page, new TestWallet(secret));
  await page.addInitScript(() => {
    // So many changes of a channel reach the disk, and then none: as on a machine that stops there.
    const begin = IDBDatabase.prototype.transaction;
    IDBDatabase.prototype.transaction = function (stores, mode, options) {
      if (mode === "readwrite" && stores === "channels" && window.changesLeft !== undefined && --window.changesLeft < 0) return { objectStore: () => ({ put: () => ({}) }) };
      return begin.call(this, stores, mode, options);
    };
  });
  await open(page, `${url}/#/ask?m=law`);
  const first = await ask(page, "May the President pardon?");
  assert.ok(first.finish.amount > 0 && first.finish.receipt, JSON.stringify(first));
  assert.deepEqual(wallet.asked, ["eth_requestAccounts", "eth_signTypedData_v4"]);
  await whose(page);

  await page.evaluate(() => (window.changesLeft = 1));
  await page.getByLabel("Question", { exact: true }).fill("And again?");
  await page.getByRole("button", { name: "Ask" }).click();
  await page.waitForFunction(() => window.changesLeft < 0 && JSON.parse(localStorage.getItem("lorikeet.web.chat")).at(-1).tokens > 0);
  await page.reload();
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  await page.getByText("the page was left").waitFor();
  await page.getByRole("button", { name: "Whose words?" }).click(); // of the first: the texts are here again
  await page.getByText("recomputed here, and it agrees").waitFor();
  await page.getByRole("button", { name: "New conversation" }).click();
  while (!existsSync(measuring)) await pause(); // the node has the texts, too
  const third = await ask(page, "May the President pardon?"); // so the words are the same ones
  assert.ok(third.finish.receipt && third.finish.attributed);
  await whose(page);
  await page.getByText("the receipt that this page signed says the same").waitFor();
  assert.deepEqual(wallet.asked, ["eth_requestAccounts", "eth_signTypedData_v4"]);
  await shoot(page, "paid");

  await page.getByRole("link", { name: "Money" }).click();
  await page.getByText("3 receipts").waitFor();
  await shoot(page, "money");
  await page.getByRole("button", { name: "Take back what is left" }).click();
  await page.getByText("went back to your wallet").waitFor();
  const spent = first.finish.amount + third.finish.amount;
  return { ...first, spent, said: third.said, split: third.finish.split, back: await page.getByRole("status").filter({ hasText: "went back" }).locator("b").innerText() };
}

// What a channel holds comes back by the wallet alone, on the chain: a deposit, an answer, a visit that is
// over, the contract's delay, and its payment.
async function alone({ page, url, more: [secret, rpc] }) {
  const wallet = await giveWallet(page, new TestWallet(secret, rpc));
  await open(page, `${url}/#/ask?m=law`);
  const first = await ask(page, "May the President pardon?");
  await page.reload();
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  const second = await ask(page, "And again?");
  await page.reload();
  await page.getByRole("link", { name: "Money" }).click();
  await page.getByText("2 receipts").waitFor();
  await page.getByRole("button", { name: "By the wallet alone" }).click();
  await page.getByText("The contract was asked").waitFor();
  await page.getByText("on its way back since").waitFor();
  assert.ok(await page.getByRole("button", { name: "Finish the withdrawal" }).isDisabled(), "the delay is not over");
  assert.equal(wallet.asked.filter((one) => one === "eth_sendTransaction").length, 1);

  await askChain(rpc, "evm_increaseTime", [LATER_S]);
  await askChain(rpc, "evm_mine");
  await page.addInitScript((later) => {
    const now = Date.now;
    Date.now = () => now() + 1000 * later;
  }, LATER_S);
  await page.reload();
  await page.getByRole("button", { name: "Finish the withdrawal" }).click();
  await page.getByText("went back to your wallet").waitFor();
  await shoot(page, "alone");
  assert.equal(wallet.asked.filter((one) => one === "eth_sendTransaction").length, 2);
  assert.equal(wallet.asked.filter((one) => one === "eth_signTypedData_v4").length, 1);
  return { spent: first.finish.amount + second.finish.amount, back: await page.getByRole("status").filter({ hasText: "went back" }).locator("b").innerText() };
}

// The node that answers is cut off in the middle: the other one goes on, and the answer is the one that an
// unbroken one would have been. Each message of a node takes a moment here, so that there is a middle.
async function failover({ page, url, more: [other] }) {
  const peers = new Map();
  for (const one of [url, other]) peers.set((await (await fetch(`${one}/node.json`)).json()).peer_id, new URL(one).port);
  const sockets = [];
  let dead = null;
  await page.routeWebSocket(/.*/, (socket) => {
    const { port } = new URL(socket.url());
    if (port === dead) return socket.close();
    const server = socket.connectToServer();
    let turn = Promise.resolve();
    server.onMessage((message) => (turn = turn.then(() => new Promise((wake) => setTimeout(wake, LAG_MS))).then(() => port !== dead && socket.send(message))));
    sockets.push({ port, socket, server });
  });
  await open(page, `${url}/#/ask?m=base`);
  await page.getByRole("link", { name: "Connections" }).click();
  const both = page.getByText("Connected to 2 nodes");
  for (let tries = 0; tries < 20 && !(await both.waitFor({ timeout: 3_000 }).then(() => true, () => false)); tries++) await page.reload(); // until the other is announced
  await both.waitFor();
  await page.getByRole("link", { name: "Ask" }).click();
  await page.getByLabel("Question", { exact: true }).fill("May the President pardon?");
  await page.getByRole("button", { name: "Ask" }).click();
  const first = await page.waitForFunction(() => {
    const turn = JSON.parse(localStorage.getItem("lorikeet.web.chat") ?? "[]").at(-1);
    return turn?.tokens > 2 && turn.facts.servedBy;
  });
  const lost = await first.jsonValue();
  dead = peers.get(lost);
  for (const one of sockets.filter(({ port }) => port === dead)) await Promise.all([one.socket.close(), one.server.close()]);
  await page.waitForFunction(() => document.querySelector("article details, article .failure"));
  await page.getByText("was lost after").waitFor();
  const broken = await turnOf(page);
  assert.notEqual(broken.facts.servedBy, lost);
  assert.ok(broken.lost[0].peerId === lost && broken.lost[0].after > 2 && broken.tokens > broken.lost[0].after, JSON.stringify(broken));
  await shoot(page, "failover");
  await page.getByRole("button", { name: "New conversation" }).click();
  dead = null;
  await ask(page, "May the President pardon?");
  const whole = await turnOf(page);
  assert.equal(broken.text, whole.text);
  assert.equal(broken.tokens, whole.tokens);
  return { tokens: broken.tokens, after: broken.lost[0].after };
}

// The newest answer's words are another's, and that is shown.
async function whose(page) {
  const answer = page.getByRole("article").first();
  await answer.getByRole("button", { name: "Whose words?" }).click();
  await answer.getByText("recomputed here, and it agrees").waitFor();
  await answer.getByText(/“a (half|whole)”/).first().waitFor();
  await answer.locator("mark").first().waitFor();
}

// In both themes, wide and at 390 px: nothing serious for axe, nothing that overflows.
async function looks(browser, page, url) {
  const state = await page.context().storageState();
  for (const [colorScheme, width] of [["light", 1280], ["dark", 390]]) {
    const context = await browser.newContext({ colorScheme, viewport: { width, height: 844 }, storageState: state });
    const other = await context.newPage();
    for (const view of ["ask?m=law", "peers"]) {
      await open(other, `${url}/#/${view}`);
      await other.evaluate(AXE);
      const found = await other.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const serious = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
      assert.deepEqual(serious.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 160)).join("; ")}`), [], `axe, ${view}, ${colorScheme}`);
      const over = await other.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${view} is ${over} px wider than ${width}`);
      await shoot(other, `${view.split("?")[0]}-${colorScheme}-${width}`);
    }
    await context.close();
  }
}

// ---- how they are played ----

// A wallet that signs and sends without asking anybody.
async function giveWallet(page, wallet) {
  await page.exposeFunction("askWallet", (asked) => wallet.request(asked));
  await page.addInitScript(() => (window.ethereum = { request: (asked) => window.askWallet(asked) }));
  return wallet;
}

async function open(page, address) {
  await page.goto(address);
  await page.waitForSelector("html[data-ready]", { state: "attached" });
}

async function ask(page, question) {
  await page.getByLabel("Question", { exact: true }).fill(question);
  await page.getByRole("button", { name: "Ask" }).click();
  const answer = page.getByRole("article").first();
  await answer.locator("p.live").first().waitFor();
  await page.waitForFunction(() => document.querySelector("article details, article .failure"));
  const failure = await answer.locator(".failure").allInnerTexts();
  assert.deepEqual(failure, []);
  const turn = await turnOf(page);
  return { took: turn.took, tokens: turn.tokens, finish: turn.finish, facts: turn.facts, said: turn.said };
}

const turnOf = (page) => page.evaluate(() => JSON.parse(localStorage.getItem("lorikeet.web.chat")).at(-1));

async function shoot(page, name) {
  if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
}

const SCENES = { free, paid, alone, failover };
const [, , scene, url, ...more] = process.argv;
const browser = await chromium.launch({ executablePath: process.env.LORIKEET_CHROMIUM });
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, locale: "en-GB" });
  page.setDefaultTimeout(DEADLINE_MS);
  const told = [];
  page.on("console", (message) => told.push(message.text()));
  page.on("pageerror", (error) => told.push(String(error)));
  try {
    const figures = await SCENES[scene]({ browser, page, url, more });
    const mayCut = scene === "failover"; // whose sockets end where nothing in the page expects it
    assert.deepEqual(told.filter((one) => !(mayCut && one.includes("WebSocket"))), [], "the console is silent");
    console.log(JSON.stringify(figures));
  } catch (error) {
    console.error(told.join("\n"), await page.locator("body").innerText().catch(() => ""));
    await shoot(page, "failed");
    throw error;
  }
} finally {
  await browser.close();
}
