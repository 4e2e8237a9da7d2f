"use strict";

// The list of groups and trajectories. Only what can be seen of it is in the document.

class List {
  /** `chosen(number)` is called when somebody clicks a trajectory. */
  constructor(element, rollouts, chosen) {
    this.element = element;
    this.rows = element.querySelector("#rows");
    this.rollouts = rollouts;
    this.entries = []; // the number of a trajectory, or ~number of the first one shown of a group for its heading
    this.places = new Map();
    this.selected = -1;
    this.rows.addEventListener("click", (event) => {
      const row = event.target.closest("[data-number]");
      if (row) chosen(Number(row.dataset.number));
    });
    element.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  get rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row"));
  }

  show(numbers) {
    this.entries = [];
    this.places.clear();
    let group = -1;
    for (const i of numbers) {
      if (this.rollouts.groupStart[i] !== group) {
        group = this.rollouts.groupStart[i];
        this.entries.push(~i);
      }
      this.places.set(i, this.entries.length);
      this.entries.push(i);
    }
    this.drawn = "";
    this.draw();
  }

  /** Mark trajectory `i` and bring it into view. */
  select(i) {
    this.selected = i;
    const place = this.places.get(i);
    if (place !== undefined) {
      const height = this.rowHeight;
      const first = this.rollouts.groupStart[i] === i ? place - 1 : place; // with its group's heading
      const { scrollTop, clientHeight } = this.element;
      if (first * height < scrollTop) this.element.scrollTop = first * height;
      else if ((place + 1) * height > scrollTop + clientHeight) this.element.scrollTop = (place + 1) * height - clientHeight;
    }
    this.drawn = "";
    this.draw();
  }

  draw() {
    const height = this.rowHeight;
    const first = Math.max(0, Math.floor(this.element.scrollTop / height) - 5);
    const last = Math.min(this.entries.length, Math.ceil((this.element.scrollTop + this.element.clientHeight) / height) + 5);
    const drawn = `${first} ${last} ${height}`;
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.rows.style.height = `${this.entries.length * height}px`;
    const rows = [];
    for (let place = first; place < last; place++) {
      const entry = this.entries[place];
      const row = entry < 0 ? this.heading(~entry) : this.row(entry);
      row.style.top = `${place * height}px`;
      rows.push(row);
    }
    this.rows.replaceChildren(...rows);
    if (this.places.has(this.selected)) this.element.setAttribute("aria-activedescendant", `row-${this.selected}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  heading(i) {
    const r = this.rollouts;
    const [start, end] = r.groupOf(i);
    const rewards = r.reward.slice(start, end).filter((reward) => reward !== null);
    const row = make("div", "heading");
    row.setAttribute("role", "presentation");
    row.append(make("span", "name", `step ${r.step[i]} · group ${r.group[i]}`));
    row.append(make("span", "snippet", oneLine(r.prompts[r.prompt[i]])));
    const mean = rewards.length ? short(rewards.reduce((a, b) => a + b, 0) / rewards.length) : "–";
    row.append(make("span", "mean", `mean ${mean}`));
    if (!r.learned.slice(start, end).some(Boolean)) row.append(make("span", "unlearned", "not learned from"));
    return row;
  }

  row(i) {
    const r = this.rollouts;
    const row = make("div", "row");
    row.id = `row-${i}`;
    row.dataset.number = i;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(i === this.selected));
    const name = make("span", "name", r.index[i]);
    name.style.paddingInlineStart = `${Math.min(depthOf(r, i), 3) * 0.5}em`;
    if (r.parent[i] !== null) name.prepend(make("span", "branch", "└"));
    row.append(name, rewardChip(r.reward[i]));
    row.append(make("span", "size", r.length[i]), make("span", "stop", oneLine(r.stops[r.stop[i]])));
    row.append(make("span", "snippet", oneLine(r.snippet[i])));
    return row;
  }
}

/** How many branchings lie between trajectory `i` and the root of its tree. */
function depthOf(rollouts, i) {
  let depth = 0;
  for (let at = i; rollouts.parent[at] !== null && depth < rollouts.size; depth++) {
    at = rollouts.groupStart[i] + rollouts.parent[at];
  }
  return depth;
}

/** A reward as a small sign. */
function rewardChip(reward) {
  const kind = reward === null ? "abstained" : reward > 0 ? "positive" : "nought";
  return make("span", `reward ${kind}`, reward === null ? "abstained" : short(reward));
}
