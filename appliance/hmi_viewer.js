// The picture of one part with heat map, regions and worst place laid over it.
// Another part appears when all of its images are decoded: a picture never carries another part's
// heat map. While one part is being fetched only the newest of those that follow waits.
export default {
  template: `
    <div class="viewer">
      <div class="stage">
        <div v-if="shown" class="frame" :class="{ 'is-old': view?.base !== shown.base }" :style="frame">
          <img class="base" :src="shown.base" :alt="shown.caption" />
          <img v-if="shown.heat" class="heat" :src="shown.heat" :style="box(shown.roi, heat / 100)" alt="" />
          <img v-if="shown.regions && regions" class="regions" :src="shown.regions" :style="box(shown.roi, regions / 100)" alt="" />
          <div v-if="shown.worst && worst" class="worst" :style="box(shown.worst, 1)"></div>
          <span class="caption">{{ shown.caption }}</span>
        </div>
        <div v-else class="empty">{{ texts.empty }}</div>
      </div>
      <div class="tools">
        <label class="tool-heat">
          <span class="caps">{{ texts.heat }}</span>
          <input type="range" min="0" max="100" step="5" v-model.number="heat" :aria-label="texts.heat" />
        </label>
        <label class="tool-regions">
          <span class="caps">{{ texts.regions }}</span>
          <input type="range" min="0" max="100" step="5" v-model.number="regions" :aria-label="texts.regions" />
        </label>
        <div class="legend">
          <div class="legend-bar" :style="{ backgroundImage: scale }"></div>
          <span class="legend-t1">{{ texts.t1 }}</span><span class="legend-t2">{{ texts.t2 }}</span>
        </div>
        <button class="toggle" :class="{ 'is-on': worst }" :aria-pressed="worst" @click="worst = !worst">
          {{ texts.worst }}
        </button>
      </div>
    </div>
  `,
  props: { view: Object, texts: Object, scale: String },
  data() {
    const kept = JSON.parse(localStorage.getItem("inspectd-viewer") || "{}");
    return { shown: null, heat: kept.heat ?? 80, regions: Number(kept.regions ?? 0), worst: kept.worst ?? true };
  },
  computed: {
    frame() {
      const { width_px: w, height_px: h } = this.shown;
      return { aspectRatio: `${w} / ${h}`, width: `min(100cqw, calc(100cqh * ${w} / ${h}))` };
    },
  },
  watch: {
    view: { handler: "follow", immediate: true },
    heat: "keep",
    regions: "keep",
    worst: "keep",
  },
  methods: {
    box([left, top, width, height], opacity) {
      return { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%`, opacity };
    },
    keep() {
      const { heat, regions, worst } = this;
      localStorage.setItem("inspectd-viewer", JSON.stringify({ heat, regions, worst }));
    },
    async follow() {
      if (this.busy) return;
      this.busy = true;
      while (this.done !== this.view) {
        const view = this.view;
        if (view) await Promise.all([view.base, view.heat, view.regions].filter(Boolean).map(decoded));
        this.shown = view;
        this.done = view;
      }
      this.busy = false;
    },
  },
};

function decoded(address) {
  const image = new Image();
  image.src = address;
  return image.decode().catch(() => {});
}
