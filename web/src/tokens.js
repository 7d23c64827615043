// Text to token ids and back, by a base's own tokenizer and template, as its card has them. Pure.
//
// Two mends make the library's ids those of Rust's: its `Digits` knows 0 to 9 alone, and its decoder
// would tidy blanks before commas.

import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";

export const MAX_PROMPT_CHARS = 1_000_000;
const INCOMPLETE = "\ufffd";
const MAX_HELD = 16; // ids of a character that does not end

export class Tokens {
  // `card` is a base's card; `json` the text of its tokenizer.json.
  constructor(card, json) {
    const said = JSON.parse(json);
    if (said.pre_tokenizer) said.pre_tokenizer = withAllDigits(said.pre_tokenizer);
    this.tokenizer = new Tokenizer(said, { clean_up_tokenization_spaces: false });
    this.template = card.template ? new Template(card.template) : null;
    this.specials = card.specials;
    this.control = new Set((said.added_tokens ?? []).filter((one) => one.special).map((one) => one.id));
    this.stopIds = card.stopIds;
    this.before = this.encode("a");
    this.beforeText = this.spell(this.before);
  }

  encode(text) {
    return Array.from(this.tokenizer.encode(text, { add_special_tokens: false }).ids, Number);
  }

  // Chat turns as the base was trained to read them, ending where the assistant speaks.
  prompt(turns) {
    if (!this.template) throw new Error("this base has no chat template");
    const text = this.template.render({ messages: turns, add_generation_prompt: true, tools: null, documents: null, ...this.specials });
    if (text.length > MAX_PROMPT_CHARS) throw new Error(`the prompt has ${text.length} characters; at most ${MAX_PROMPT_CHARS} are sent`);
    return this.encode(text);
  }

  spell(ids) {
    return this.tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  }

  // The text of ids that go on after others, without control tokens.
  decode(ids) {
    const shown = ids.filter((id) => !this.control.has(id));
    return this.spell([...this.before, ...shown]).slice(this.beforeText.length);
  }

  stream() {
    return new Stream(this);
  }
}

// Turns arriving ids into text that never has to be taken back: a character waits for its last byte.
class Stream {
  constructor(tokens) {
    this.tokens = tokens;
    this.context = [];
    this.held = [];
  }

  add(ids) {
    this.held.push(...ids);
    const before = this.tokens.decode(this.context);
    const text = this.tokens.decode([...this.context, ...this.held]).slice(before.length);
    if (text.endsWith(INCOMPLETE) && this.held.length < MAX_HELD) return "";
    this.context = [...this.context, ...this.held].slice(-MAX_HELD);
    this.held = [];
    return text;
  }

  end() {
    const text = this.held.length ? this.tokens.decode([...this.context, ...this.held]).slice(this.tokens.decode(this.context).length) : "";
    this.held = [];
    return text;
  }
}

function withAllDigits(one) {
  if (one.type === "Sequence") return { ...one, pretokenizers: one.pretokenizers.map(withAllDigits) };
  if (one.type !== "Digits") return one;
  return { type: "Split", pattern: { Regex: one.individual_digits ? "\\p{N}" : "\\p{N}+" }, behavior: "Isolated", invert: false };
}
