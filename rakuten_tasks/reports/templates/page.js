// Runs inside a deck, in any page. Figures are drawn once they have a width: Flyte shows one tab
// and hides the others, and plotly assumes a width of 700 px for a hidden figure.
(() => {
  const deck = document.currentScript.closest(".rakuten-deck");

  async function inflate() {
    const binary = atob(deck.querySelector(".rk-plotly").textContent);
    const packed = new Blob([Uint8Array.from(binary, (letter) => letter.charCodeAt(0))]).stream();
    const script = document.createElement("script");
    script.textContent = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("plotly.js did not start");
    return window.Plotly;
  }

  async function draw(figure) {
    const { data, layout } = JSON.parse(figure.querySelector(".rk-json").textContent);
    const Plotly = await (window.rakutenPlotly ??= inflate()); // one copy for all decks of a page
    const plot = document.createElement("div");
    plot.style.height = figure.style.height;
    figure.querySelector(".rk-missing").replaceWith(plot);
    await Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
    figure.dataset.drawn = "yes";
    return () => Plotly.Plots.resize(plot);
  }

  const drawn = new Map();
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = target.offsetWidth;
      if (!width || target.dataset.width === String(width)) continue;
      target.dataset.width = width;
      if (drawn.has(target)) {
        drawn.get(target).then((resize) => target.offsetWidth && resize && resize());
        continue;
      }
      drawn.set(target, draw(target).catch((error) => {
        const message = target.querySelector(".rk-missing") || target;
        message.textContent = `This figure cannot be drawn here: it needs DecompressionStream (Chrome 80, Firefox 113, `
          + `Safari 16.4 or newer). ${error}`;
      }));
    }
  });
  deck.querySelectorAll(".rk-figure").forEach((figure) => observer.observe(figure));
})();
