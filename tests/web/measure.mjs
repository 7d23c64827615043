// What the page's modules measure, for Python to compare: {texts: [[tokens, background, questions]]} on the
// standard input, in hex; of each question {bits, known, parts, spans}.

import { readFileSync } from "node:fs";
import { unhex } from "../../web/src/bytes.js";
import { credit, measure, spansOf } from "../../web/src/ladder.js";
import { readText } from "../../web/src/texts.js";

function answerOf(text, background, [prompt, answer]) {
  const { bits, byToken, known } = measure(text, background, prompt, answer);
  return { bits, known, parts: credit(bits, 8, 1), spans: spansOf(text, answer, byToken) };
}

const { texts } = JSON.parse(readFileSync(0, "utf8"));
const answers = texts.map(([tokens, background, questions]) => {
  const read = [readText(unhex(tokens)), readText(unhex(background))];
  return questions.map((one) => answerOf(...read, one));
});
console.log(JSON.stringify(answers));
