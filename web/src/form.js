// Says what a decoded value must look like: `is.bytes(32)`, `is.list(is.text(512), 8)`. Pure.
//
// A form is a function that throws Malformed, or returns the value; nothing is converted.

export class Malformed extends Error {}

function need(isGood, what, value) {
  if (!isGood) throw new Malformed(`expected ${what}, got ${told(value)}`);
  return value;
}

const told = (value) => (value instanceof Uint8Array ? `${value.length} bytes` : Array.isArray(value) ? `${value.length} elements` : String(value).slice(0, 60));
const isWhole = (value) => typeof value === "bigint" || Number.isInteger(value);

export const AMOUNT = (1n << 63n) - 1n;
export const COUNT = 2 ** 31 - 1;

export const is = {
  bytes: (min, max = min) => (value) => need(value instanceof Uint8Array && value.length >= min && value.length <= max, `${min} to ${max} bytes`, value),
  whole: (min, max) => (value) => need(isWhole(value) && value >= min && value <= max, `an integer from ${min} to ${max}`, value),
  text: (max, pattern = /^[^]*$/) => (value) => need(typeof value === "string" && [...value].length <= max && pattern.test(value), `a text of at most ${max} characters`, value),
  one: (...words) => (value) => need(words.includes(value), `one of ${words.join(", ")}`, value),
  yesNo: (value) => need(value === true || value === false, "true or false", value),
  number: (value) => need(value !== null && typeof value === "object" && Number.isFinite(value.value), "a number", value),
  maybe: (form) => (value) => (value === null ? null : form(value)),
  list: (form, max, min = 0) => (value) => need(Array.isArray(value) && value.length >= min && value.length <= max, `${min} to ${max} elements`, value).map(form),
  tuple: (...forms) => (value) => need(Array.isArray(value) && value.length === forms.length, `${forms.length} elements`, value).map((one, place) => forms[place](one)),
  // Fields by name, in the order in which they stand in an array.
  record: (fields) => {
    const names = Object.keys(fields);
    const inner = is.tuple(...Object.values(fields));
    return (value) => Object.fromEntries(inner(value).map((one, place) => [names[place], one]));
  },
};
