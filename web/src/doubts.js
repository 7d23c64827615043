// Who cheated this browser, and for how long nothing is asked of it: a day, longer the more often it
// did. A book is plain data, {peerId: {weight, at}}, for the browser's store. Pure.

const HALF_S = 86_400;
const BARRED = 0.5;
const MOST = 256;
const MAX_WEIGHT = 64; // a week

export function weightOf(book, peerId, now) {
  const doubt = Object.hasOwn(book, peerId) ? book[peerId] : null;
  return doubt ? doubt.weight * 0.5 ** (Math.max(now - doubt.at, 0) / HALF_S) : 0;
}

export const isBarred = (book, peerId, now) => weightOf(book, peerId, now) > BARRED;

// When it may be asked again, in Unix seconds.
export const barredUntil = (book, peerId, now) => now + HALF_S * Math.log2(weightOf(book, peerId, now) / BARRED);

// The book after it cheated; of too many the faintest go.
export function cheated(book, peerId, now) {
  const weight = Math.min(weightOf(book, peerId, now) + 1, MAX_WEIGHT);
  return kept({ ...book, [peerId]: { weight, at: now } }, now);
}

export function forgiven(book, peerId) {
  return Object.fromEntries(Object.entries(book).filter(([one]) => one !== peerId));
}

// Whatever lay in the store, as a book. What a wrong clock wrote for the future counts from now on.
export function kept(book, now) {
  const good = Object.entries(book ?? {}).filter(([, one]) => Number.isFinite(one?.weight) && Number.isFinite(one?.at));
  const sane = Object.fromEntries(good.map(([peerId, { weight, at }]) => [peerId, { weight: Math.min(weight, MAX_WEIGHT), at: Math.min(at, now) }]));
  const order = Object.keys(sane).sort((one, other) => weightOf(sane, other, now) - weightOf(sane, one, now));
  return Object.fromEntries(order.filter((one) => weightOf(sane, one, now) > 0.05).slice(0, MOST).map((one) => [one, sane[one]]));
}
