// What somebody does with the page, in a real Chromium: node scenes.mjs SCENE URL [more]
// Says "ok" and figures as JSON at the end, or throws.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const VIEWS = JSON.parse(process.env.LORIKEET_VIEWS ?? "[]");
const RECEIPT = "ab".repeat(32);
const DEADLINE_MS = 60_000;

// ---- the scenes ----

// It opens, tells how the node does and what is wrong, and speaks to nobody else.
async function home({ page, url }) {
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  const began = Date.now();
  await page.goto(`${url}/`);
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  const ready_ms = Date.now() - began;
  await page.getByText("behind a router").waitFor();
  await page.getByText("send some ETH").waitFor();
  await page.getByText("1 part of 2 is wrong.").waitFor();
  await page.getByRole("link", { name: "8" }).click();
  await page.getByRole("heading", { name: "8 peers connected" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  assert.deepEqual(asked.filter((one) => !one.startsWith(url)), []);
  const bytes = await page.evaluate(() => performance.getEntriesByType("resource").reduce((sum, one) => sum + one.encodedBodySize, 0));
  return { ready_ms, bytes };
}

// Every part, in both themes, wide and at 390 px: nothing serious for axe, nothing that overflows.
// Each box that shows a figure names the commands that print it.
async function looks({ browser, url }) {
  const commands = new Set();
  for (const [colorScheme, width] of [["light", 1280], ["dark", 390]]) {
    const page = await open(browser, { colorScheme, viewport: { width, height: 844 } });
    await page.goto(`${url}/`);
    for (const view of VIEWS) {
      await page.goto(`${url}/#/${view}`);
      await page.waitForSelector("html[data-ready]", { state: "attached" });
      await page.waitForFunction(() => !document.querySelector("main")?.innerText.includes("One moment") && document.querySelector("main .card, main .empty"));
      await page.evaluate(AXE);
      const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const serious = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
      const told = serious.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.html.slice(0, 160)} ${node.failureSummary}`).join("; ")}`);
      assert.deepEqual(told, [], `axe, ${view}, ${colorScheme}, ${width} px`);
      const named = await page.evaluate(() => [...document.querySelectorAll("main .card:not(.answer)")].map((card) => ({
        title: card.querySelector("h2")?.textContent,
        hasFigure: [...card.querySelectorAll(".figure dd, td.right, .facts dd")].some((one) => /\d/.test(one.textContent)),
        commands: [...card.querySelectorAll(".cmd code")].map((one) => one.textContent),
      })));
      assert.deepEqual(named.filter((one) => one.hasFigure && !one.commands.length), [], `${view} has figures that no command prints`);
      named.forEach((one) => one.commands.forEach((each) => commands.add(each)));
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${view} is ${over} px wider than ${width}`);
      assert.match(await page.title(), /Lorikeet$/);
    }
    assert.deepEqual(page.told, []);
    await page.context().close();
  }
  return { commands: [...commands] };
}

// One question to two adapters: streamed side by side, with who, how much, and whose words; a reload keeps it.
async function chat({ page, url }) {
  await page.goto(`${url}/#/chat?m=law&m=base`);
  await page.getByLabel("Question").fill("May the President pardon?");
  await page.getByLabel("Question").press("Enter");
  const answers = page.getByRole("article");
  await answers.getByText("The court finds that è all is well.").nth(1).waitFor();
  await page.getByText("receipt …").first().waitFor();
  assert.equal(await answers.count(), 2);
  assert.match(await answers.first().innerText(), /first word .* ms[^]*7 \+ 8 tokens[^]*cost 0\.000470/);
  await page.getByRole("button", { name: "Whose words?" }).first().click();
  await page.getByText("31 bits more than anybody would write").waitFor();
  await page.reload();
  await page.getByText("The court finds that è all is well.").first().waitFor();
  assert.match(page.url(), /m=law&m=base/);
  assert.match(page.url(), /c=/);
  await page.getByRole("link", { name: /receipt …/ }).first().click();
  await page.getByRole("heading", { name: "From answer to money" }).waitFor();
}

// An answer that is stopped is stopped in the node.
async function stop({ page, url }) {
  await page.goto(`${url}/#/chat?m=law`);
  await page.getByLabel("Question").fill("May I?");
  await page.getByRole("button", { name: "Ask" }).click();
  await page.getByRole("article").getByText("The").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("stopped").waitFor();
}

// An adapter is looked for, fetched, and the fetching cancelled.
async function pull({ page, url }) {
  await page.goto(`${url}/#/adapters?where=known`);
  await page.getByRole("row", { name: /recipes/ }).getByRole("button", { name: "Pull" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByText("stopped; what came is kept").waitFor();
  await page.getByLabel("where").selectOption("here or known");
  await page.getByLabel("what it is about").fill("court");
  await page.getByRole("row", { name: /What a court would say/ }).waitFor();
  assert.match(page.url(), /q=court/);
  await page.reload();
  assert.equal(await page.getByLabel("what it is about").inputValue(), "court");
  await page.getByRole("row", { name: /What a court would say/ }).waitFor();
}

// A training is watched and paused; a text is read as text, and judged; what is pasted names nobody.
async function factory({ page, url }) {
  await page.goto(`${url}/#/factory`);
  await page.getByRole("link", { name: "kitchen" }).click();
  await page.locator(".curve canvas").waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByRole("button", { name: "Go on", exact: true }).click();
  await page.getByRole("button", { name: "Stop and keep" }).click();
  await page.getByText("stopped").waitFor();
  await page.getByRole("link", { name: "Datanets" }).click();
  await page.getByRole("link", { name: "kitchen" }).click();
  await page.getByRole("link", { name: "Notes on salt" }).first().click();
  await page.getByRole("button", { name: "Read it" }).click();
  await page.getByText("Salt keeps. <script>").waitFor();
  await page.getByRole("radio", { name: "accept" }).check();
  await page.getByRole("button", { name: "Sign the decision" }).click();
  await page.getByText("Signed:").waitFor();
  await page.goto(`${url}/#/logs`);
  await page.getByText("daemon: started").waitFor();
  await page.getByRole("button", { name: "Write it" }).click();
  const report = await page.getByRole("region", { name: "The report" }).innerText();
  assert.match(report, /wrong gas: it has 0\.000000 ETH/);
  assert.doesNotMatch(report, /16Uiu2HAm|127\.0\.0\.1|0x\w{8}/);
}

// Peers, texts and trainings, one after the other in one browser.
async function tend(scene) {
  for (const part of [peers, give, runs]) await part(scene);
}

// A peer is banned and let in again; the engine says where its memory goes.
async function peers({ page, url }) {
  await page.goto(`${url}/#/peers?order=traffic`);
  const first = page.getByRole("region", { name: "Peers", exact: true }).getByRole("row").nth(1);
  await first.getByText("150.99 GB").waitFor();
  await first.getByRole("button", { name: /^Ban/ }).click();
  await page.getByLabel("why, for yourself").fill("floods");
  await page.getByRole("button", { name: "Ban this peer" }).click();
  const banned = page.getByRole("region", { name: "Banned peers" });
  await banned.getByText("floods").waitFor();
  await page.getByText("7 of 8 shown").waitFor();
  await banned.getByRole("button", { name: /Lift the ban/ }).click();
  await page.getByText("Nobody is banned.").waitFor();
  await page.getByRole("combobox", { name: "heard", exact: true }).selectOption("not for ten minutes");
  await page.getByText("0 of 8 shown").waitFor();
  await page.getByRole("link", { name: "Engine" }).click();
  await page.getByText("271.0 MB").waitFor();
}

// Texts are dropped, a bad one is named with its line; an invite is a picture, too.
async function give({ page, url }) {
  await page.goto(`${url}/#/datanets/kitchen`);
  const chosen = (name, text) => ({ name, mimeType: "text/plain", buffer: Buffer.from(text) });
  await page.getByLabel(/drop files here/).setInputFiles([chosen("salt.txt", "Salt keeps.\n".repeat(80_000)), chosen("rows.jsonl", '{"text": "a"}\n{"text":\n')]);
  await page.getByText(/rows.jsonl, line 2: it is no JSON/).waitFor();
  await page.getByText("1 file to be given").waitFor();
  await page.getByLabel(/I agree to this/).check();
  await page.getByRole("button", { name: "Check, sign and give" }).click();
  await page.getByText("3 documents kept, 1 refused.").waitFor();
  await page.getByText("document 2 (Pepper): 4 words").waitFor();
  await page.getByRole("button", { name: "Make an invite" }).click();
  await page.getByRole("img", { name: /The invite/ }).waitFor();
}

// Whose text mattered is measured, a checkpoint asked; trainings stand beside one another, adapters in one.
async function runs({ page, url }) {
  await page.goto(`${url}/#/factory/kitchen`);
  await page.getByText("61.0 %").waitFor();
  await page.getByRole("button", { name: "Go on measuring" }).click();
  await page.getByText("without Karim").waitFor();
  await page.getByRole("button", { name: /what is measured is kept/ }).click();
  await page.getByLabel("question").fill("how to salt.");
  await page.getByRole("button", { name: "Ask", exact: true }).click();
  await page.getByText("The adapter says that how to salt.").waitFor();
  await page.getByRole("link", { name: "all trainings" }).click();
  await page.getByRole("link", { name: "Compare trainings" }).click();
  await page.getByText("adapter.rank").waitFor();
  await page.reload();
  await page.getByText("better on what is held out").waitFor();
  await page.getByRole("link", { name: "all trainings" }).click();
  await page.getByRole("link", { name: "Merge adapters" }).click();
  await page.getByLabel("name", { exact: true }).fill("both");
  await page.getByLabel("adapters and their parts").fill("law:0.7 verse:0.3");
  await page.getByRole("button", { name: "Merge them" }).click();
  await page.getByText("both lies in /srv/merged/both").waitFor();
}

// What is proposed and decided; each proposal has an address that a reload keeps.
async function governance({ page, url }) {
  await page.goto(`${url}/`);
  await page.getByText("fees today").waitFor();
  await page.getByRole("link", { name: "Governance" }).click();
  await page.getByRole("row", { name: /prices.completion-floor.* 80 / }).waitFor();
  await page.getByRole("link", { name: "Raise the floor" }).click();
  await page.getByRole("region", { name: "The text" }).getByText("pays for its own electricity").waitFor();
  await page.getByText("quorum 4").waitFor();
  await page.reload();
  await page.getByText("prices.completion-floor = 120").waitFor();
  await page.getByText("lorikeet gov simulate 7").waitFor();
  await page.getByText("was 0.007440 LORI, +0.003720 LORI").waitFor();
  await page.getByRole("row", { name: /this node's.*0\.007440 LORI.*\+0\.003720 LORI/ }).waitFor();
}

// A browser under a POSIX locale, whose language there is not, draws the curve all the same.
async function posix({ page, url }) {
  await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "language", { get: () => "en-US@posix" }));
  await page.goto(`${url}/#/factory/kitchen`);
  await page.locator(".uplot canvas").waitFor();
}

// By the keyboard alone: over the navigation to the content, to another part, and into its filter.
async function keyboard({ page, url }) {
  await page.goto(`${url}/`);
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.getByRole("link", { name: "Peers" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "8 peers connected" }).waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.type("10.0.0.3");
  await page.getByText("1 of 8 shown").waitFor();
  await page.goBack();
  await page.getByRole("heading", { level: 1, name: "Home" }).waitFor();
}

// A page of another program on this machine, one that rebinds its name, and one that frames.
async function hostile({ page, url, more: [evil] }) {
  const attack = async (target) => page.evaluate(async (target) => {
    const tries = [
      () => fetch(`${target}/lorikeet/v1/withdraw`, { method: "POST", mode: "no-cors", body: '{"channel":null}' }),
      () => fetch(`${target}/lorikeet/v1/session`, { method: "POST" }).then((one) => one.json()),
      () => fetch(`${target}/lorikeet/v1/status`).then((one) => one.json()),
    ];
    const got = [];
    for (const one of tries) got.push(await one().then((answer) => answer.token ?? answer.type ?? answer.peer_id ?? `refused ${answer.error?.code}`, () => "nothing"));
    return got;
  }, target);
  await page.goto(evil);
  assert.deepEqual(await attack(url), ["opaque", "nothing", "nothing"]);
  const rebound = evil.replace("127.0.0.1", "rebound.example");
  await page.goto(rebound);
  assert.deepEqual(await attack(url.replace("127.0.0.1", "rebound.example")), ["opaque", "nothing", "nothing"]);
  await page.goto(url.replace("127.0.0.1", "rebound.example"));
  assert.match(await page.textContent("body"), /is not loopback/);
  await page.goto(evil);
  await page.setContent(`<iframe src="${url}/"></iframe><a href="${url}/">open</a>`);
  await page.waitForTimeout(300);
  assert.ok(!(await page.frames()[1]?.content().catch(() => ""))?.includes("Lorikeet"));
  await page.click("a");
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  page.told.length = 0; // the attacks are told in the console, as they should be
}

const SCENES = { home, looks, chat, stop, pull, factory, tend, governance, posix, keyboard, hostile };

// ---- how they are played ----

async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-GB", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.told = [];
  page.on("console", (message) => page.told.push(message.text()));
  page.on("pageerror", (error) => page.told.push(String(error)));
  return page;
}

const [, , scene, url, ...more] = process.argv;
const args = ["--host-resolver-rules=MAP rebound.example 127.0.0.1"];
const browser = await chromium.launch({ executablePath: process.env.LORIKEET_CHROMIUM, args });
try {
  const page = await open(browser);
  const figures = await SCENES[scene]({ browser, page, url, more, RECEIPT });
  assert.deepEqual(page.told, [], "the console is silent");
  console.log(JSON.stringify({ ok: scene, ...figures }));
} finally {
  await browser.close();
}
