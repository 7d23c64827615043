// A base's signed card: its tokenizer, template and stop ids (docs/protocols/basecard.md). Pure.

import { equal, utf8 } from "./bytes.js";
import { fileForm } from "./blocks.js";
import { AMOUNT, Malformed, is } from "./form.js";
import { sha256 } from "./keys.js";
import { checkSigned } from "./manifest.js";
import { decode } from "./msgpack.js";

export const MAX_CARD_BYTES = 65_536;
const DIGEST = is.bytes(32);
const SPECIAL = is.tuple(is.text(64, /^[a-z][a-z0-9_]*$/), is.text(256));
const CARD = is.record({
  version: is.one(1), name: is.text(64, /^[A-Za-z0-9][A-Za-z0-9._-]*$/), base: DIGEST, format: is.one("gguf", "safetensors"),
  licence: is.text(512), source: is.text(512), size: is.whole(1, AMOUNT),
  index: fileForm(8 << 20, 1_200, is.one("index")), tokenizer: fileForm(64 << 20, 1_200, is.one("tokenizer.json")),
  tokenizerHash: DIGEST, templateHash: DIGEST, template: is.text(32_768), toolTemplate: is.text(32_768),
  specials: is.list(SPECIAL, 32), stopIds: is.list(is.whole(0, 2 ** 24 - 1), 16), createdAt: is.whole(0, AMOUNT),
  signer: is.bytes(33), signature: is.bytes(65),
});

// The card of this base. Throws Malformed, BadBytes or BadBlock.
export function readCard(bytes, base) {
  const value = decode(bytes, MAX_CARD_BYTES);
  const card = CARD(value);
  checkSigned(value, utf8("lorikeet base card 1\0"), card.signature, card.signer);
  if (!equal(card.base, base)) throw new Malformed("it is the card of another base");
  if (!equal(sha256(utf8(card.template)), card.templateHash)) throw new Malformed("its template has another hash");
  return { ...card, specials: Object.fromEntries(card.specials) };
}
