// Histograms of margins, one strip per group, with two limits that a finger can drag.
// Tells the page while it drags (at most ten times a second) and once more when it is let go.
export default {
  template: `
    <div class="chart">
      <svg :viewBox="'0 0 1000 ' + height" preserveAspectRatio="none" ref="svg"
           @pointermove="move" @pointerup="drop" @pointercancel="drop">
        <rect x="0" y="0" :width="x(t1)" :height="height" class="zone-ok" />
        <rect :x="x(t1)" y="0" :width="Math.max(0, x(t2) - x(t1))" :height="height" class="zone-uncertain" />
        <rect :x="x(t2)" y="0" :width="1000 - x(t2)" :height="height" class="zone-ng" />
        <g v-for="(group, row) in groups">
          <rect v-for="bar in bars(group.counts, row)" :x="bar.x" :y="bar.y" :width="bar.width"
                :height="bar.height" :class="'bar-' + group.tone" />
          <line x1="0" x2="1000" :y1="(row + 1) * strip" :y2="(row + 1) * strip" class="chart-base" />
        </g>
        <line v-for="limit in force" :x1="x(limit)" :x2="x(limit)" y1="0" :y2="height" class="in-force" />
        <g v-for="which in ['t1', 't2']" class="handle" @pointerdown="grab(which, $event)">
          <rect :x="x(value(which)) - 22" y="0" width="44" :height="height" fill="transparent" />
          <line :x1="x(value(which))" :x2="x(value(which))" y1="0" :y2="height" class="limit" />
        </g>
      </svg>
      <span v-for="(group, row) in groups" class="chart-name" :style="{ top: (100 * row) / groups.length + '%' }">
        {{ group.name }}
      </span>
      <span v-for="which in ['t1', 't2']" class="chart-limit" :class="'is-' + which" :style="{ left: x(value(which)) / 10 + '%' }">
        {{ which.toUpperCase() }} {{ value(which).toFixed(3) }}
      </span>
    </div>
  `,
  props: { groups: Array, low: Number, high: Number, limits: Array, force: Array },
  emits: ["limits"],
  data() {
    return { t1: this.limits[0], t2: this.limits[1], held: null, told: 0, strip: 100 };
  },
  computed: {
    height() {
      return this.strip * this.groups.length;
    },
  },
  watch: {
    limits(next) {
      if (!this.held) [this.t1, this.t2] = next;
    },
  },
  methods: {
    value(which) {
      return which === "t1" ? this.t1 : this.t2;
    },
    x(margin) {
      return Math.min(1000, Math.max(0, ((margin - this.low) / (this.high - this.low)) * 1000));
    },
    bars(counts, row) {
      const most = Math.max(1, ...counts), width = 1000 / counts.length;
      return counts.map((count, place) => {
        const height = count ? Math.max(1.5, (count / most) * this.strip * 0.78) : 0;
        return { x: place * width, y: (row + 1) * this.strip - height, width: width * 0.9, height };
      });
    },
    grab(which, event) {
      // Limits that stand on each other: the upper one moves, unless it stands at the right end.
      this.held = this.t1 === this.t2 && this.x(this.t2) < 999 ? "t2" : which;
      this.$refs.svg.setPointerCapture(event.pointerId);
      event.preventDefault();
    },
    move(event) {
      if (!this.held) return;
      const box = this.$refs.svg.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const margin = this.low + share * (this.high - this.low);
      if (this.held === "t1") this.t1 = Math.min(margin, this.t2);
      else this.t2 = Math.max(margin, this.t1);
      if (performance.now() - this.told > 100) this.tell(false);
    },
    drop() {
      if (!this.held) return;
      this.held = null;
      this.tell(true);
    },
    tell(isDone) {
      this.told = performance.now();
      this.$emit("limits", { t1: this.t1, t2: this.t2, done: isDone });
    },
  },
};
