// Files that somebody drops or chooses: looked at here, carried to the node when they are given.

import { ask, html, many, size, useState } from "../lib.js";

const MOST_BYTES = 16 << 20; // of a file, and below of all: what a node keeps of dropped ones
const MOST_TOGETHER = 64 << 20;
const MOST_FILES = 64;
const PIECE = 768 << 10; // below what the node takes in one request
const TEXTS = /\.(txt|md|markdown|csv|tsv|jsonl|ndjson)$/i;

// Says what is wrong with a file before it is carried, by its line where it has one; null: nothing.
async function wrongWith(file) {
  if (!file.size) return `${file.name}: it is empty`;
  if (file.size > MOST_BYTES) return `${file.name}: ${size(file.size)}, and at most ${size(MOST_BYTES)} can be dropped; name it by its path`;
  if (!TEXTS.test(file.name)) return null; // intake says what a file of another kind is
  const bytes = new Uint8Array(await file.arrayBuffer());
  const zero = bytes.indexOf(0);
  if (zero >= 0 && !(bytes[0] >= 0xfe)) return `${file.name}, line ${lineOf(bytes, zero)}: a zero byte; it is no text`;
  if (!/\.(jsonl|ndjson)$/i.test(file.name)) return null;
  let number = 0;
  for (const line of new TextDecoder().decode(bytes).split("\n")) {
    number += 1;
    if (!line.trim()) continue;
    try {
      if (typeof JSON.parse(line) !== "object") return `${file.name}, line ${number}: it is no object of JSON`;
    } catch (error) {
      return `${file.name}, line ${number}: it is no JSON (${error.message.slice(0, 80)})`;
    }
  }
  return null;
}

function lineOf(bytes, place) {
  let line = 1;
  for (let at = 0; at < place; at++) if (bytes[at] === 10) line += 1;
  return line;
}

export function Drop({ files, onChange }) {
  const [over, setOver] = useState(false);
  const [wrong, setWrong] = useState([]);
  const take = async (list) => {
    const found = [...list];
    const said = (await Promise.all(found.map(wrongWith))).map((told, place) => ({ told, file: found[place] }));
    const good = said.filter((one) => !one.told).map((one) => one.file);
    const kept = [...files.filter((one) => !good.some((other) => other.name === one.name)), ...good];
    const errors = said.filter((one) => one.told).map((one) => one.told);
    if (kept.length > MOST_FILES || kept.reduce((sum, one) => sum + one.size, 0) > MOST_TOGETHER) {
      return setWrong([...errors, `At most ${MOST_FILES} files and ${size(MOST_TOGETHER)} together; name the rest by their paths.`]);
    }
    setWrong(errors);
    return onChange(kept);
  };
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files);
  };
  const lift = (event) => {
    event.preventDefault();
    setOver(true);
  };
  return html`<div class=${over ? "drop over" : "drop"} onDragOver=${lift} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    <label>drop files here, or choose them: txt, md, csv, jsonl, pdf, docx <input type="file" multiple onChange=${(event) => { take(event.target.files); event.target.value = ""; }}/></label>
    ${wrong.map((one) => html`<p class="failure" role="alert">${one}</p>`)}
    ${files.length > 0 && html`<ul class="found">${files.map((one) => html`<li key=${one.name} class="row between"><span>${one.name} <span class="soft">${size(one.size)}</span></span>
      <button type="button" class="quiet" aria-label=${`Leave ${one.name} out`} onClick=${() => onChange(files.filter((other) => other !== one))}>leave out</button></li>`)}</ul><p class="soft" role="status">${many(files.length, "file")} to be given</p>`}</div>`;
}

// Brings the files to the node, piece by piece; gives their paths there.
export async function carry(files, onProgress) {
  const total = files.reduce((sum, one) => sum + one.size, 0);
  const paths = [];
  let done = 0;
  for (const file of files) {
    const drop = [...crypto.getRandomValues(new Uint8Array(8))].map((one) => one.toString(16).padStart(2, "0")).join("");
    let here = { path: "" };
    for (let at = 0; at < file.size; at += PIECE) {
      const query = new URLSearchParams({ drop, name: file.name, at });
      here = await ask(`/lorikeet/v1/dropped?${query}`, { body: file.slice(at, at + PIECE) });
      done = Math.min(total, done + PIECE);
      onProgress({ stage: "carry", done, total });
    }
    paths.push(here.path);
  }
  return paths;
}
