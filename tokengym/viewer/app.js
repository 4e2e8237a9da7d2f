"use strict";

// The page: which trajectory is looked at, and how; keys and buttons.

class App {
  constructor(rollouts) {
    this.rollouts = rollouts;
    this.shown = []; // the trajectories that pass the filters
    this.current = -1;
    this.quantity = "advantages";
    this.detail = byId("detail");
    this.list = new List(byId("list"), rollouts, (i) => this.open(i, true));
    this.tokens = new Tokens(byId("tokens"), byId("token"));
    this.filters = new Filters(byId("filters"), rollouts, (numbers) => this.filtered(numbers));
    this.about();
    this.quantities();
    byId("previous").addEventListener("click", () => this.move(-1));
    byId("next").addEventListener("click", () => this.move(1));
    byId("back").addEventListener("click", () => document.body.classList.remove("reading"));
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    new ResizeObserver(() => this.drawGroup()).observe(byId("group"));
  }

  about() {
    const { run, steps, groups, size, leftOut } = this.rollouts;
    document.title = `${oneLine(run.name)} – rollouts`;
    byId("run").textContent = oneLine(run.name);
    const of = [run.agent, run.env && `on ${run.env}`, run.model && `from ${run.model}`].filter(Boolean).join(" ");
    const counts = [counted(steps.length, "step"), counted(groups, "group"), counted(size, "trajectory")].join(", ");
    const missing = leftOut.length ? `; steps ${leftOut.join(", ")} are recorded too, but not on this page` : "";
    byId("about").textContent = oneLine(`${of}${of && " · "}${counts}${missing}`);
  }

  quantities() {
    for (const [name, { name: label }] of Object.entries(QUANTITIES)) {
      const radio = make("input");
      Object.assign(radio, { type: "radio", name: "quantity", value: name, checked: name === this.quantity });
      radio.addEventListener("change", () => this.colourBy(name));
      const field = make("label");
      field.append(radio, label);
      byId("quantities").append(field);
    }
    drawLegend(byId("legend"), this.quantity, this.rollouts.scales[this.quantity]);
  }

  colourBy(quantity) {
    this.quantity = quantity;
    byId("quantities").querySelector(`[value=${quantity}]`).checked = true;
    drawLegend(byId("legend"), quantity, this.rollouts.scales[quantity]);
    if (this.current >= 0) this.tokens.colour(quantity, this.rollouts.scales[quantity]);
  }

  filtered(numbers) {
    this.shown = numbers;
    this.list.show(numbers);
    byId("nothing").hidden = numbers.length > 0;
    const stays = numbers.includes(this.current);
    if (numbers.length) this.open(stays ? this.current : numbers[0], false);
    else this.close();
  }

  close() {
    this.current = -1;
    this.opening = null;
    this.list.select(-1);
    this.detail.hidden = true;
    document.body.classList.remove("reading");
  }

  /** Show trajectory `i`; on a narrow screen in place of the list, if it is to be read at once. */
  async open(i, reading) {
    this.current = i;
    this.list.select(i);
    if (reading) document.body.classList.add("reading");
    const r = this.rollouts;
    const name = `#${r.step[i]}.${r.group[i]}.${r.index[i]}`;
    if (location.hash !== name) history.replaceState(null, "", name);
    const [start, end] = r.groupOf(i);
    const opening = (this.opening = Symbol());
    const group = await Promise.all(Array.from({ length: end - start }, (_, k) => r.trajectory(start + k)));
    if (opening !== this.opening) return; // another one was opened in the meantime
    this.group = group;
    this.detail.hidden = false;
    this.heading(i, group[i - start]);
    this.tokens.show(group[i - start], this.filters.text, r.parent[i], r.fork[i]);
    this.tokens.colour(this.quantity, r.scales[this.quantity]);
    this.drawGroup();
    this.detail.scrollTop = 0;
    this.detail.dataset.number = i;
  }

  heading(i, trajectory) {
    const r = this.rollouts;
    const where = [`step ${r.step[i]} ·`, `group ${r.group[i]} ·`, `trajectory ${r.index[i]}`];
    byId("where").replaceChildren(...where.flatMap((part) => [make("span", "whole", part), " "]));
    const facts = [["reward", rewardChip(r.reward[i])]];
    for (const [name, value] of Object.entries(trajectory.parts)) facts.push([name, short(value)]);
    facts.push(["stop", r.stops[r.stop[i]]], ["tokens", r.length[i]]);
    if (trajectory.answer !== null) facts.push(["answer", trajectory.answer]);
    if (r.parent[i] !== null) facts.push(["branch of", `trajectory ${r.parent[i]} at token ${r.fork[i]}`]);
    if (!trajectory.sampled) facts.push(["sampled", "not in this step: it stands in for another"]);
    if (!r.learned[i]) facts.push(["learned from", "no"]);
    byId("facts").replaceChildren(
      ...facts.map(([name, value]) => {
        const fact = make("div");
        const text = make("dd");
        if (value instanceof Node) text.append(value);
        else appendText(text, String(value));
        fact.append(make("dt", "", oneLine(name)), text);
        return fact;
      }),
    );
    const error = byId("error");
    error.hidden = !trajectory.error;
    error.replaceChildren();
    appendText(error, `${r.reward[i] === null ? "The reward abstained: " : ""}${trajectory.error}`);
  }

  drawGroup() {
    const box = byId("group");
    if (this.current < 0 || !this.group) return;
    const [start, end] = this.rollouts.groupOf(this.current);
    box.hidden = end - start < 2 || this.group.length !== end - start;
    if (box.hidden) return;
    let branches = 0;
    for (let i = start; i < end; i++) if (this.rollouts.parent[i] !== null) branches++;
    const trajectories = counted(end - start, "trajectory");
    box.querySelector("summary").textContent = branches
      ? `Tree of ${trajectories}, ${counted(branches, "branch")}`
      : `Group of ${trajectories}`;
    const tokens = this.group.map((trajectory) => trajectory.tokens.length);
    const prompts = this.group.map((trajectory) => trajectory.actions[0]?.[0] ?? trajectory.tokens.length);
    drawTree(byId("tree"), this.rollouts, this.current, tokens, prompts, (i) => this.open(i, true));
  }

  /** To the trajectory that is `by` further in the list. */
  move(by) {
    const at = this.shown.indexOf(this.current);
    this.to(at + by);
  }

  to(place) {
    if (this.shown.length) this.open(this.shown[Math.max(0, Math.min(place, this.shown.length - 1))], false);
  }

  /** To the first trajectory of the next (1) or an earlier (−1) run of equal `key`: a group, a step. */
  leap(by, key) {
    const here = this.shown.indexOf(this.current);
    const keyAt = (place) => key(this.shown[place]);
    let place = here;
    while (place >= 0 && place < this.shown.length && keyAt(place) === keyAt(here)) place += by;
    if (place < 0 || place >= this.shown.length) return;
    while (by < 0 && place > 0 && keyAt(place - 1) === keyAt(place)) place--;
    this.to(place);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const field = document.activeElement.closest("input:not([type=radio]), select, textarea");
    if (event.key === "Escape") {
      event.preventDefault(); // a search field would be emptied
      if (field) field.blur();
      else document.body.classList.remove("reading");
      return;
    }
    if (field) return;
    const { step, groupStart } = this.rollouts;
    const actions = {
      j: () => this.move(1),
      ArrowDown: () => this.move(1),
      k: () => this.move(-1),
      ArrowUp: () => this.move(-1),
      J: () => this.leap(1, (i) => groupStart[i]),
      K: () => this.leap(-1, (i) => groupStart[i]),
      "]": () => this.leap(1, (i) => step[i]),
      "[": () => this.leap(-1, (i) => step[i]),
      ArrowRight: () => this.tokens.point(this.tokens.at + 1),
      ArrowLeft: () => this.tokens.point(this.tokens.at - 1),
      c: () => this.nextQuantity(),
      "/": () => this.search(),
      x: () => byId("filters").reset(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  }

  nextQuantity() {
    const names = Object.keys(QUANTITIES);
    this.colourBy(names[(names.indexOf(this.quantity) + 1) % names.length]);
  }

  search() {
    const form = byId("filters");
    if (!form.classList.contains("unfolded")) byId("unfold").click();
    form.elements.text.focus();
    form.elements.text.select();
  }

  /** Go to the trajectory that the address names: #STEP.GROUP.TRAJECTORY, later parts left out at will. */
  follow() {
    const [step, group, index] = location.hash.slice(1).split(".").map(Number);
    const r = this.rollouts;
    const wanted = r.step.findIndex(
      (own, i) => own === step && (group === undefined || r.group[i] === group) && (index === undefined || r.index[i] === index),
    );
    if (wanted >= 0) this.open(wanted, true);
  }
}

function byId(id) {
  return document.getElementById(id);
}

function counted(count, noun) {
  const plural = noun.endsWith("y") ? `${noun.slice(0, -1)}ies` : noun.endsWith("ch") ? `${noun}es` : `${noun}s`;
  return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
}

Rollouts.open().then(
  async (rollouts) => {
    const wanted = location.hash;
    const app = new App(rollouts);
    await app.filters.apply();
    if (wanted) {
      location.hash = wanted;
      app.follow();
    }
    document.body.dataset.ready = Math.round(performance.now()); // ms since the page was asked for
  },
  (error) => {
    byId("about").textContent = `This page's data cannot be unpacked: ${error}`;
  },
);
