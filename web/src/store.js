// What outlives the page, in the browser's IndexedDB: the page's key, channels, and what was fetched
// by its hash. What `put` returned from is stored.

const NAME = "lorikeet";
const STORES = ["keys", "channels", "files"];
export const MOST_FILES = 24;

export class Store {
  // `onLost` hears that the browser's data was cleared: nothing is kept from then on.
  static open(onLost = () => {}, name = NAME) {
    return new Promise((resolve, reject) => {
      const asked = indexedDB.open(name, 1);
      asked.onupgradeneeded = () => STORES.forEach((one) => asked.result.createObjectStore(one));
      asked.onsuccess = () => {
        asked.result.onclose = onLost;
        asked.result.onversionchange = () => {
          asked.result.close();
          onLost();
        };
        resolve(new Store(asked.result));
      };
      asked.onerror = () => reject(asked.error);
    });
  }

  constructor(database) {
    this.database = database;
    this.running = new Set();
    globalThis.addEventListener?.("pagehide", () => this.leave());
  }

  // The page is left, and may be frozen as it is (WebKit does that): what it has begun to write would
  // keep every other page out. What was not kept was not sent either.
  leave() {
    for (const transaction of this.running) {
      try {
        transaction.abort();
      } catch {
        // it has just ended
      }
    }
    this.database.close();
  }

  get(store, key) {
    return this.run(store, "readonly", (one) => one.get(key));
  }

  // What is there, or else `value`, which is there from now on: two tabs get the same.
  async first(store, key, value) {
    const kept = await this.run(store, "readwrite", (one, answer) => {
      const asked = one.get(key);
      asked.onsuccess = () => asked.result === undefined ? one.put(value, key) : answer(asked.result);
    });
    return kept ?? value;
  }

  all(store) {
    return this.run(store, "readonly", (one) => one.getAll());
  }

  // Durable: the browser has told the disk before this resolves.
  put(store, key, value) {
    return this.run(store, "readwrite", (one) => one.put(value, key));
  }

  remove(store, key) {
    return this.run(store, "readwrite", (one) => one.delete(key));
  }

  keys(store) {
    return this.run(store, "readonly", (one) => one.getAllKeys());
  }

  // Rejects when the store was cleared, is full, or cannot write: then nothing of it is kept.
  run(store, mode, action) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(store, mode, { durability: "strict" });
      this.running.add(transaction);
      const over = (action) => () => {
        this.running.delete(transaction);
        action();
      };
      let found;
      const asked = action(transaction.objectStore(store), (value) => (found = value));
      transaction.oncomplete = over(() => resolve(asked ? asked.result : found));
      transaction.onabort = over(() => reject(transaction.error ?? new Error("the browser's store refused")));
      transaction.onerror = () => reject(transaction.error);
    });
  }
}

// In place of a store that the browser forbids: lasts as long as the page, and pays nobody.
export class Memory {
  constructor() {
    this.values = new Map();
  }

  async get(store, key) {
    return this.values.get(`${store} ${key}`);
  }

  async first(store, key, value) {
    if (!this.values.has(`${store} ${key}`)) await this.put(store, key, value);
    return this.get(store, key);
  }

  async all(store) {
    return [...this.values].filter(([key]) => key.startsWith(`${store} `)).map(([, value]) => value);
  }

  async put(store, key, value) {
    this.values.set(`${store} ${key}`, value);
  }

  async remove(store, key) {
    this.values.delete(`${store} ${key}`);
  }

  async keys(store) {
    return [...this.values.keys()].filter((key) => key.startsWith(`${store} `)).map((key) => key.slice(store.length + 1));
  }
}

// Keeps a file; of too many those go that came first.
export async function keepFile(store, key, value) {
  const there = (await store.keys("files")).filter((one) => one !== key);
  const known = ((await store.get("keys", "files")) ?? []).filter((one) => there.includes(one));
  const order = [...there.filter((one) => !known.includes(one)), ...known, key];
  for (const old of order.slice(0, -MOST_FILES)) await store.remove("files", old);
  await store.put("files", key, value);
  await store.put("keys", "files", order.slice(-MOST_FILES));
}
