// What a browser sees of the page: node page.mjs URL LOADS MINUTES. Says JSON at the end.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , url, loads, minutes] = process.argv;
const require = createRequire(new URL("../../tests/page/scenes.mjs", import.meta.url));
const { chromium } = require("playwright-core");
const VIEWS = ["engine", "peers", "chat", "logs", "receipts", ""];
const DEADLINE_MS = 300_000;
const VISIT_MS = 9_000;

// The first figure of the node that is on the screen, from the beginning of the navigation.
const watch = () => {
  const look = () => {
    if (!document.querySelector("main .figure dd b")) return requestAnimationFrame(look);
    return requestAnimationFrame(() => (window.useful_ms = performance.now()));
  };
  requestAnimationFrame(look);
};

async function load(browser) {
  const context = await browser.newContext(); // nothing is cached there
  const page = await context.newPage();
  await page.addInitScript(watch);
  await page.goto(`${url}/`);
  await page.waitForFunction(() => window.useful_ms, null, { timeout: DEADLINE_MS });
  const found = await page.evaluate(() => window.useful_ms);
  await context.close();
  return found;
}

// What the processes that draw pages wrote and hold alone, as the kernel counts it: not the pages of
// the program itself; but the inspector, by which all of this is asked, keeps some of the event stream.
async function private_bytes(whole) {
  const { processInfo } = await whole.send("SystemInfo.getProcessInfo");
  const drawing = processInfo.filter((one) => one.type === "renderer");
  return drawing.reduce((sum, one) => sum + private_of(one.id), 0);
}

function private_of(pid) {
  const told = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return [...told.matchAll(/^Private_Dirty:\s+(\d+) kB$/gm)].reduce((sum, [, kb]) => sum + 1024 * kb, 0);
}

async function sample(page, session, whole) {
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  const { nodes, jsEventListeners } = await session.send("Memory.getDOMCounters");
  return { heap_bytes: usedSize, private_bytes: await private_bytes(whole), nodes, listeners: jsEventListeners, elements: await page.evaluate(() => document.querySelectorAll("*").length) };
}

// Goes through the parts once a minute, and looks at the memory on Home.
async function stay(browser) {
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const session = await page.context().newCDPSession(page);
  const whole = await browser.newBrowserCDPSession();
  await session.send("HeapProfiler.enable");
  await page.goto(`${url}/`);
  const samples = [];
  const ends = Date.now() + minutes * 60_000;
  while (Date.now() < ends) {
    const began = Date.now();
    for (const view of VIEWS) {
      await page.goto(`${url}/#/${view}`);
      await page.locator("main .card").first().waitFor(); // a handle would keep what is left behind
      await page.waitForTimeout(VISIT_MS);
    }
    samples.push(await sample(page, session, whole));
    console.error(JSON.stringify(samples.at(-1))); // an hour is long to wait without a word
    await page.waitForTimeout(Math.max(0, began + 60_000 - Date.now()));
  }
  return samples;
}

const browser = await chromium.launch({ executablePath: process.env.LORIKEET_CHROMIUM });
try {
  const found = { loads_ms: [], samples: [] };
  if (Number(loads)) await load(browser); // the browser's own first page
  for (let at = 0; at < Number(loads); at++) found.loads_ms.push(await load(browser));
  if (Number(minutes)) found.samples = await stay(browser);
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
