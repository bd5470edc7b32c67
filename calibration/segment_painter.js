// A picture of the part with its regions over it, to be painted with a finger: brush, rectangle,
// polygon, erase, undo. Holds one number per pixel of the network's input; tells the page after every
// stroke what is there now, as runs of equal labels.
const IGNORED = 255, KEEP = 254, UNDO = 40, LEAST_SIDE = 420;
const COLOURS = ["#e6194b", "#3cb44b", "#0082c8", "#f58230", "#911eb4", "#46f0f0", "#f032e6", "#d2f53c", "#aa6e28"];

export default {
  template: `
    <div class="painter">
      <canvas ref="canvas" class="painter-canvas" :width="shown.width" :height="shown.height"
              @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="up"></canvas>
      <div class="painter-tools">
        <div class="bar">
          <button v-for="name in ['brush', 'rectangle', 'polygon', 'erase']" type="button" class="do"
                  :class="{ 'is-on': tool === name }" :aria-pressed="tool === name" @click="choose(name)">
            {{ texts[name] }}
          </button>
          <button type="button" class="do" :disabled="!past.length" @click="undo">{{ texts.undo }}</button>
          <button v-if="points.length > 2" type="button" class="do is-main" @click="close">{{ texts.close }}</button>
        </div>
        <label class="painter-slide"><span class="caps">{{ texts.size }} {{ size }} px</span>
          <input type="range" min="1" :max="largest" v-model.number="size" :aria-label="texts.size" /></label>
        <label class="painter-slide"><span class="caps">{{ texts.opacity }}</span>
          <input type="range" min="0" max="100" step="5" v-model.number="opacity" :aria-label="texts.opacity" /></label>
        <div class="caps">{{ texts.regions }}</div>
        <div v-for="region in list" class="region" :class="{ 'is-on': held === region.id }">
          <button type="button" class="region-pick" :aria-label="texts.brush + ' ' + region.name" @click="held = region.id">
            <span class="region-colour" :style="{ background: region.colour }"></span>
            <span class="region-share">{{ share(region.id) }}</span>
          </button>
          <input class="region-name" maxlength="40" :value="region.name" :aria-label="texts.name"
                 @focus="held = region.id" @change="rename(region, $event.target.value)" />
          <button type="button" class="do" :disabled="list.length < 2" @click="remove(region)">{{ texts.remove }}</button>
        </div>
        <div class="region" :class="{ 'is-on': held === 255 }">
          <button type="button" class="region-pick" @click="held = 255">
            <span class="region-colour is-ignored"></span>
            <span class="region-share">{{ share(255) }}</span>
            <span class="region-word">{{ texts.ignored }}</span>
          </button>
        </div>
        <button type="button" class="do" @click="add">{{ texts.add }}</button>
      </div>
    </div>
  `,
  props: { width: Number, height: Number, image: String, runs: Array, force: Array, regions: Array, texts: Object },
  emits: ["painted"],
  data() {
    return {
      tool: "brush", size: Math.max(2, Math.round(this.width / 20)), opacity: 45, held: 0,
      list: this.regions.map((region, id) => ({ id, ...region })), next: this.regions.length,
      past: [], points: [], counts: [],
    };
  },
  computed: {
    factor() {
      return Math.max(1, Math.ceil(LEAST_SIDE / Math.max(this.width, this.height)));
    },
    shown() {
      return { width: this.width * this.factor, height: this.height * this.factor };
    },
    largest() {
      return Math.max(4, Math.round(Math.min(this.width, this.height) / 2));
    },
  },
  watch: {
    opacity: "draw",
    image(next) {
      this.below.src = next;
    },
  },
  created() {
    // Not reactive: a proxy around every pixel would be slow.
    this.labels = unpacked(this.runs, this.width * this.height);
    // The map in force in the same numbers; KEEP where its region is not there any more.
    this.base = unpacked(this.force, this.width * this.height);
    this.into = {};
    this.count();
  },
  mounted() {
    this.below = new Image();
    this.below.onload = () => this.draw();
    if (this.image) this.below.src = this.image;
    this.draw();
  },
  methods: {
    // ---- regions
    share(id) {
      return ((100 * (this.counts[id] || 0)) / this.labels.length).toFixed(1) + " %";
    },
    count() {
      const counts = new Array(256).fill(0);
      for (const label of this.labels) counts[label]++;
      this.counts = counts;
    },
    keep() {
      this.past.push({ labels: this.labels.slice(), list: this.list.map((r) => ({ ...r })), into: { ...this.into } });
      if (this.past.length > UNDO) this.past.shift();
    },
    undo() {
      if (this.points.length) {
        this.points = [];
        return this.draw();
      }
      const before = this.past.pop();
      if (!before) return;
      [this.labels, this.list, this.into] = [before.labels, before.list, before.into];
      if (this.held !== IGNORED && !this.list.some((r) => r.id === this.held)) this.held = this.list[0].id;
      this.changed();
    },
    add() {
      if (this.next >= IGNORED) return;
      this.keep();
      const used = this.list.map((r) => r.colour);
      const colour = COLOURS.find((c) => !used.includes(c)) || COLOURS[this.next % COLOURS.length];
      let number = this.list.length + 1;
      while (this.list.some((r) => r.name === `${this.texts.new} ${number}`)) number++;
      this.list.push({ id: this.next, name: `${this.texts.new} ${number}`, colour });
      this.held = this.next++;
      this.changed();
    },
    rename(region, name) {
      this.keep();
      region.name = name.trim();
      this.changed();
    },
    remove(region) {
      this.keep();
      const target = this.neighbour(region.id);
      for (let i = 0; i < this.labels.length; i++) if (this.labels[i] === region.id) this.labels[i] = target;
      this.into[region.id] = target;
      this.list = this.list.filter((r) => r.id !== region.id);
      if (this.held === region.id) this.held = target;
      this.changed();
    },
    neighbour(id) {
      // The one with the longest common border; a region without pixels joins the first.
      const borders = {};
      const touch = (a, b) => {
        const other = a === id && b !== id ? b : b === id && a !== id ? a : IGNORED;
        if (other !== IGNORED) borders[other] = (borders[other] || 0) + 1;
      };
      const { labels, width } = this;
      for (let i = 0; i < labels.length; i++) {
        if ((i + 1) % width) touch(labels[i], labels[i + 1]);
        if (i + width < labels.length) touch(labels[i], labels[i + width]);
      }
      const best = Object.entries(borders).sort((a, b) => b[1] - a[1])[0];
      return best ? Number(best[0]) : this.list.find((r) => r.id !== id).id;
    },
    // ---- strokes
    choose(name) {
      this.tool = name;
      this.points = [];
      this.draw();
    },
    place(event) {
      const box = this.$refs.canvas.getBoundingClientRect();
      return {
        x: ((event.clientX - box.left) / box.width) * this.width,
        y: ((event.clientY - box.top) / box.height) * this.height,
      };
    },
    down(event) {
      event.preventDefault();
      const at = this.place(event);
      if (this.tool === "polygon") {
        const [first] = this.points;
        const near = first && Math.hypot(first.x - at.x, first.y - at.y) < this.width / 40;
        if (near && this.points.length > 2) return this.close();
        this.points.push(at);
        return this.draw();
      }
      this.$refs.canvas.setPointerCapture(event.pointerId);
      this.keep();
      this.from = this.last = at;
      this.stroke(at);
    },
    move(event) {
      if (!this.last) return;
      const at = this.place(event);
      this.stroke(at);
      this.last = at;
    },
    up(event) {
      if (!this.last) return;
      if (this.tool === "rectangle") this.fill(rectangle(this.from, this.place(event)));
      this.from = this.last = null;
      this.changed();
    },
    stroke(at) {
      if (this.tool === "rectangle") {
        this.points = rectangle(this.from, at);
      } else {
        const steps = Math.max(1, Math.ceil(Math.hypot(at.x - this.last.x, at.y - this.last.y)));
        for (let step = 1; step <= steps; step++) {
          const share = step / steps;
          this.dab(this.last.x + share * (at.x - this.last.x), this.last.y + share * (at.y - this.last.y));
        }
      }
      this.draw();
    },
    dab(x, y) {
      const radius = this.size / 2;
      for (let row = Math.floor(y - radius); row <= y + radius; row++) {
        for (let column = Math.floor(x - radius); column <= x + radius; column++) {
          if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= Math.max(0.6, radius)) this.put(column, row);
        }
      }
    },
    put(column, row) {
      if (column < 0 || row < 0 || column >= this.width || row >= this.height) return;
      const i = row * this.width + column;
      if (this.tool !== "erase") this.labels[i] = this.held;
      else if (this.base[i] !== KEEP) this.labels[i] = this.erased(this.base[i]);
    },
    erased(id) {
      while (id in this.into) id = this.into[id];
      return id;
    },
    close() {
      this.keep();
      this.fill(this.points);
      this.changed();
    },
    fill(corners) {
      // Every pixel whose middle lies inside (even-odd), without smooth edges.
      for (let row = 0; row < this.height; row++) {
        const y = row + 0.5, cuts = [];
        corners.forEach((a, i) => {
          const b = corners[(i + 1) % corners.length];
          if (a.y <= y !== b.y <= y) cuts.push(a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x));
        });
        cuts.sort((a, b) => a - b);
        for (let i = 0; i + 1 < cuts.length; i += 2) {
          for (let column = Math.ceil(cuts[i] - 0.5); column + 0.5 < cuts[i + 1]; column++) this.put(column, row);
        }
      }
      this.points = [];
    },
    // ---- to the page, to the eye
    changed() {
      this.points = [];
      this.count();
      this.draw();
      const number = { [IGNORED]: IGNORED };
      this.list.forEach((region, place) => (number[region.id] = place));
      this.$emit("painted", {
        runs: packed(this.labels, number),
        regions: this.list.map(({ name, colour }) => ({ name, colour })),
      });
    },
    draw() {
      const canvas = this.$refs.canvas;
      if (!canvas) return;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = true;
      context.fillStyle = "#808080";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (this.below?.complete && this.below.naturalWidth) context.drawImage(this.below, 0, 0, canvas.width, canvas.height);
      const tints = {};
      for (const region of this.list) tints[region.id] = [1, 3, 5].map((i) => parseInt(region.colour.slice(i, i + 2), 16));
      const layer = new ImageData(this.width, this.height), alpha = Math.round(2.55 * this.opacity);
      this.labels.forEach((id, i) => {
        const hatch = (i % this.width >> 1) + (Math.floor(i / this.width) >> 1);
        const tint = id === IGNORED ? (hatch % 2 ? [0, 0, 0] : [255, 255, 255]) : tints[id];
        layer.data.set([...tint, id === IGNORED ? Math.max(alpha, 90) : alpha], 4 * i);
      });
      const small = new OffscreenCanvas(this.width, this.height);
      small.getContext("2d").putImageData(layer, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
      if (this.points.length) {
        context.beginPath();
        this.points.forEach(({ x, y }) => context.lineTo(x * this.factor, y * this.factor));
        if (this.tool === "rectangle") context.closePath();
        context.lineWidth = 2;
        context.strokeStyle = "#fff";
        context.stroke();
        for (const { x, y } of this.points) context.strokeRect(x * this.factor - 4, y * this.factor - 4, 8, 8);
      }
    },
  },
};

function rectangle(a, b) {
  return [a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }];
}

function unpacked(runs, length) {
  const labels = new Uint8Array(length);
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    labels.fill(runs[i], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return labels;
}

function packed(labels, number) {
  const runs = [];
  for (let i = 0; i < labels.length; ) {
    let end = i;
    while (end < labels.length && labels[end] === labels[i]) end++;
    runs.push(number[labels[i]], end - i);
    i = end;
  }
  return runs;
}
