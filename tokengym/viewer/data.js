"use strict";

// The page's data: an index of all trajectories, and chunks with their tokens that are unpacked when they are needed.

const KEPT_CHUNKS = 8; // of a hundred thousand tokens each

/** The JSON value that is packed (gzip, base64) in the element `id`. */
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** All trajectories, by number in the order of the record; those of a group follow one another. */
class Rollouts {
  static async open() {
    return new Rollouts(await unpack("index"));
  }

  constructor(index) {
    Object.assign(this, index.columns); // step, group, index, parent, fork, reward, length, stop, learned, prompt, snippet
    this.run = index.run;
    this.leftOut = index.left_out;
    this.stops = index.stops;
    this.prompts = index.prompts;
    this.scales = index.scales;
    this.size = this.step.length;
    this.steps = [...new Set(this.step)];
    this.groupStart = new Int32Array(this.size);
    this.groups = 0;
    for (let i = 0; i < this.size; i++) {
      const follows = i > 0 && this.step[i] === this.step[i - 1] && this.group[i] === this.group[i - 1];
      this.groupStart[i] = follows ? this.groupStart[i - 1] : i;
      if (!follows) this.groups++;
    }
    this.order = []; // all trajectories as they are listed: branches behind what they left
    for (let i = 0; i < this.size; i = this.groupOf(i)[1]) this.order.push(...treeOrder(this, ...this.groupOf(i)));
    this.chunkStarts = [];
    let start = 0;
    for (const count of index.chunks) {
      this.chunkStarts.push(start);
      start += count;
    }
    this.unpacked = new Map();
    this.texts = new Map();
  }

  /** The numbers of the trajectories in the group of trajectory `i`, first and beyond the last. */
  groupOf(i) {
    const start = this.groupStart[i];
    let end = i + 1;
    while (end < this.size && this.groupStart[end] === start) end++;
    return [start, end];
  }

  chunkOf(i) {
    let chunk = this.chunkStarts.length - 1;
    while (this.chunkStarts[chunk] > i) chunk--;
    return chunk;
  }

  chunk(number) {
    const value = this.unpacked.get(number) ?? unpack(`chunk-${number}`);
    this.unpacked.delete(number); // and set again: the last one used is the last one in the map
    this.unpacked.set(number, value);
    if (this.unpacked.size > KEPT_CHUNKS) this.unpacked.delete(this.unpacked.keys().next().value);
    return value;
  }

  /** What the index does not have of trajectory `i`, with its tokens as texts. */
  async trajectory(i) {
    const number = this.chunkOf(i);
    const chunk = await this.chunk(number);
    const row = chunk.rows[i - this.chunkStarts[number]];
    return { ...row, tokens: row.tokens.map((token) => chunk.texts[token]) };
  }

  /** The text of trajectory `i` in lower case. */
  async text(i) {
    if (!this.texts.has(i)) this.texts.set(i, lowered((await this.trajectory(i)).tokens).join(""));
    return this.texts.get(i);
  }
}

/** The texts of tokens in lower case, each by itself: some letters, such as İ, get longer by it. */
function lowered(tokens) {
  return tokens.map((token) => token.toLowerCase());
}

/** The value of `quantity` at each action token of a trajectory, or null where nobody computed it. */
function valuesOf(trajectory, quantity) {
  const values = trajectory[quantity];
  const count = trajectory.actions.reduce((sum, [start, end]) => sum + end - start, 0);
  return Array.isArray(values) ? values : new Array(count).fill(values ?? null);
}
