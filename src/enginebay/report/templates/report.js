(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const palettes = JSON.parse(document.getElementById("palettes").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const settings = { displayModeBar: false, responsive: true, showTips: false };
  const paperWidth = 680; // CSS pixels between the margins of an A4 page

  // Colours are words such as "@run0" until they are drawn.
  const colored = (value, palette) => {
    if (typeof value === "string") return value.startsWith("@") ? palette[value.slice(1)] : value;
    if (Array.isArray(value)) return value.map((item) => colored(item, palette));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, colored(item, palette)]));
  };

  const draw = (palette, width) => {
    for (const [id, figure] of Object.entries(figures)) {
      const place = document.getElementById(id);
      const { data, layout } = colored(figure, palette);
      const columns = Number(place.dataset.columns);
      if (width) layout.width = (width - 18 * (columns - 1)) / columns;
      else layout.autosize = true;
      Plotly.react(place, data, layout, settings);
    }
  };

  const drawForScreen = () => draw(dark.matches ? palettes.dark : palettes.light, null);
  drawForScreen();
  dark.addEventListener("change", drawForScreen);
  window.addEventListener("beforeprint", () => draw(palettes.light, paperWidth));
  window.addEventListener("afterprint", drawForScreen);
})();
