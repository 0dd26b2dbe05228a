(() => {
  "use strict";
  const place = document.getElementById("requests-data");
  if (!place) return;
  const { ticks_per_s: ticksPerSecond, runs } = JSON.parse(place.textContent);
  const PAGE = 50;
  const get = (id) => document.getElementById(id);
  const [chooser, measure, search, canvas, body, detail, pages] = [
    "requests-run", "requests-measure", "requests-search", "requests-scatter", "requests-rows", "requests-detail",
    "requests-pages",
  ].map(get);
  const state = { run: 0, sort: "index", down: false, page: 0, chosen: null, shown: [] };
  const unpacked = new Map();

  // A row as the page's data has it: see COLUMNS.
  const [INDEX, SCHEDULED, SENT, FIRST, LAST, ENDED, INPUT, OUTPUT, CACHED, FINISH] = Array(10).keys();
  const since = (later, earlier) => (later === null ? null : later - earlier);
  const MEASURES = {
    ttft: (row) => since(row[FIRST], row[SENT]),
    tpot: (row) => (row[OUTPUT] > 1 && row[LAST] !== null ? (row[LAST] - row[FIRST]) / (row[OUTPUT] - 1) : null),
    e2e: (row) => since(row[LAST], row[SENT]),
    lag: (row) => row[SENT] - row[SCHEDULED],
  };
  const KEYS = {
    ...MEASURES,
    index: (row) => row[INDEX], sent: (row) => row[SENT], input: (row) => row[INPUT], output: (row) => row[OUTPUT],
    cached: (row) => row[CACHED], ending: (row) => row[FINISH],
  };
  const COLUMNS = ["index", "sent", "input", "output", "cached", "ttft", "tpot", "e2e", "lag", "ending"];
  const seconds = (value) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    return size >= 1 ? `${value.toFixed(2)} s` : `${(value * 1000).toFixed(size < 0.1 ? 2 : 0)} ms`;
  };
  const run = () => runs[state.run];
  const ending = (row) => run().endings[row[FINISH]];
  const failed = (row) => ending(row).includes(": ");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const cell = (row, column) => {
    if (column === "ending") return ending(row);
    const value = KEYS[column](row);
    if (column in MEASURES || column === "sent") return seconds(value);
    return value === null ? "–" : String(value);
  };

  // ------------------------------------------------------------ which rows

  const matches = (row, words) =>
    words.every((word) => {
      const [, column, sign, bound] = /^(ttft|tpot|e2e|lag|input|output|cached|sent)([<>])([\d.]+)$/.exec(word) ?? [];
      if (!column) return word === String(row[INDEX]) || ending(row).toLowerCase().includes(word);
      const value = KEYS[column](row);
      return value !== null && (sign === "<" ? value < Number(bound) : value > Number(bound));
    });

  const select = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = KEYS[state.sort];
    const order = (one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === null || b === null) return (a === null) - (b === null);
      return (state.down ? b - a : a - b) || one[INDEX] - other[INDEX];
    };
    state.shown = run().rows.filter((row) => matches(row, words)).sort(order);
    state.page = Math.min(state.page, Math.max(0, Math.ceil(state.shown.length / PAGE) - 1));
  };

  // ------------------------------------------------------------ table

  const drawTable = () => {
    body.replaceChildren(
      ...state.shown.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => {
        const line = document.createElement("tr");
        line.tabIndex = 0;
        line.dataset.index = row[INDEX];
        if (state.chosen === row[INDEX]) line.className = "chosen";
        for (const column of COLUMNS) {
          const place = document.createElement("td");
          place.textContent = cell(row, column);
          if (column === "ending") place.className = failed(row) ? "words failed" : "words";
          line.append(place);
        }
        return line;
      }),
    );
    const number = Math.max(1, Math.ceil(state.shown.length / PAGE));
    pages.textContent = `${state.shown.length} of ${run().rows.length} requests, page ${state.page + 1} of ${number}`;
    for (const header of document.querySelectorAll("#requests-table th[data-sort]")) {
      const is = header.dataset.sort === state.sort;
      header.setAttribute("aria-sort", is ? (state.down ? "descending" : "ascending") : "none");
    }
  };

  // ------------------------------------------------------------ scatter

  const EDGE = { left: 64, right: 12, top: 10, bottom: 26 };
  let points = [];

  const prepared = (surface, height) => {
    const ratio = window.devicePixelRatio || 1;
    const width = surface.clientWidth || 800;
    surface.width = width * ratio;
    surface.height = height * ratio;
    surface.style.height = `${height}px`;
    const pen = surface.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    return { pen, width, height };
  };

  const steps = (highest, number) => {
    const rough = highest / number;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    return Array.from({ length: Math.floor(highest / step) + 1 }, (_, index) => index * step);
  };

  const drawScatter = () => {
    const { pen, width, height } = prepared(canvas, 300);
    const value = MEASURES[measure.value];
    const rows = state.shown.map((row) => [row, row[SENT], value(row)]).filter(([, , y]) => y !== null);
    const right = Math.max(1e-6, ...[rows.reduce((most, [, x]) => Math.max(most, x), 0)]) * 1.02;
    const highest = Math.max(1e-6, rows.reduce((most, [, , y]) => Math.max(most, y), 0)) * 1.05;
    const x = (at) => EDGE.left + (at / right) * (width - EDGE.left - EDGE.right);
    const y = (at) => height - EDGE.bottom - (at / highest) * (height - EDGE.top - EDGE.bottom);
    pen.fillStyle = color("muted");
    pen.strokeStyle = color("grid");
    for (const tick of steps(highest, 5)) {
      pen.beginPath(); pen.moveTo(EDGE.left, y(tick)); pen.lineTo(width - EDGE.right, y(tick)); pen.stroke();
      pen.textAlign = "right"; pen.fillText(seconds(tick), EDGE.left - 6, y(tick) + 4);
    }
    pen.textAlign = "center";
    for (const tick of steps(right, 8)) pen.fillText(`${+tick.toPrecision(3)} s`, x(tick), height - 8);
    points = rows.map(([row, at, size]) => ({ row, x: x(at), y: y(Math.max(0, size)) }));
    pen.globalAlpha = points.length > 2000 ? 0.45 : 0.8;
    pen.fillStyle = color(run().color);
    const radius = points.length > 2000 ? 1.6 : 3;
    for (const point of points) pen.fillRect(point.x - radius, point.y - radius, 2 * radius, 2 * radius);
    pen.globalAlpha = 1;
    const chosen = points.find((point) => point.row[INDEX] === state.chosen);
    if (chosen) {
      pen.strokeStyle = color("ink");
      pen.lineWidth = 2;
      pen.beginPath(); pen.arc(chosen.x, chosen.y, 7, 0, 2 * Math.PI); pen.stroke();
    }
  };

  // ------------------------------------------------------------ one request

  const block = async (table, number) => {
    const key = `${state.run}/${number}`;
    if (!unpacked.has(key)) {
      const bytes = Uint8Array.from(atob(table.blocks[number]), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(key, JSON.parse(await new Response(stream).text()));
    }
    return unpacked.get(key);
  };

  const tokenTimes = async (row) => {
    const table = run();
    const position = table.rows.indexOf(row);
    const number = Math.floor(position / table.per_block);
    if (number >= table.blocks.length) return null;
    const packed = (await block(table, number))[position % table.per_block];
    const times = [];
    let ticks = 0;
    for (const item of packed) {
      if (item < 0) times[times.length - 1].tokens = -item;
      else times.push({ at: (ticks += item) / ticksPerSecond, tokens: 1 });
    }
    return times;
  };

  const drawTokens = (surface, row, times) => {
    const { pen, width, height } = prepared(surface, 74);
    const end = Math.max(1e-6, row[ENDED] - row[SENT]);
    const x = (at) => 4 + (at / end) * (width - 8);
    pen.fillStyle = color("wait");
    pen.fillRect(x(0), 30, x(times[0]?.at ?? end) - x(0), 8);
    pen.fillStyle = color(run().color);
    for (const { at, tokens } of times) {
      const size = Math.min(28, 12 + 4 * tokens);
      pen.fillRect(x(at) - 0.75, 34 - size / 2, 1.5, size);
    }
    pen.fillStyle = color("muted");
    for (const tick of steps(end, 8)) pen.fillText(`${+tick.toPrecision(3)} s`, x(tick), 66);
  };

  const fact = (list, name, value) => {
    const [term, told] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, told.textContent] = [name, value];
    list.append(term, told);
  };

  const showDetail = async (row) => {
    state.chosen = row[INDEX];
    const times = await tokenTimes(row);
    const title = document.createElement("h3");
    title.textContent = `Request ${row[INDEX]} of ${run().name}`;
    const facts = document.createElement("dl");
    fact(facts, "Scheduled, sent", `${row[SCHEDULED].toFixed(4)} s, ${seconds(MEASURES.lag(row))} later`);
    fact(facts, "Tokens", `${row[INPUT]} in (${row[CACHED] ?? "unknown"} from a cache), ${row[OUTPUT]} out`);
    fact(facts, "First token after", seconds(MEASURES.ttft(row)));
    fact(facts, "Each further token", seconds(MEASURES.tpot(row)));
    fact(facts, "All after", seconds(MEASURES.e2e(row)));
    fact(facts, "Ended", ending(row));
    const parts = [title, facts];
    if (times?.length) {
      const gaps = times.slice(1).map((time, index) => time.at - times[index].at);
      fact(facts, "Chunks with tokens", `${times.length}; longest gap ${seconds(gaps.length ? Math.max(...gaps) : null)}`);
      const surface = document.createElement("canvas");
      surface.setAttribute("role", "img");
      surface.setAttribute("aria-label", "One tick for each chunk with tokens, from sending to the end.");
      const list = document.createElement("details");
      const summary = document.createElement("summary");
      summary.textContent = "Times of all tokens, from sending";
      const text = document.createElement("p");
      text.className = "times";
      text.textContent = times.map(({ at, tokens }) => `${at.toFixed(4)}${tokens > 1 ? ` (${tokens})` : ""}`).join("  ");
      list.append(summary, text);
      parts.push(surface, list);
      detail.replaceChildren(...parts);
      drawTokens(surface, row, times);
    } else {
      if (times === null) fact(facts, "Times of its tokens", "not in this page, since there are too many: see records.jsonl");
      detail.replaceChildren(...parts);
    }
    drawTable();
    drawScatter();
  };

  // ------------------------------------------------------------ what a reader does

  const draw = () => { select(); drawTable(); drawScatter(); };
  const rowOf = (index) => run().rows.find((row) => row[INDEX] === index);
  runs.forEach((table, index) => {
    const option = document.createElement("option");
    option.value = index;
    option.textContent = table.name + (table.simulated ? " (SIMULATED)" : "") + (table.valid ? "" : " (INVALID)");
    chooser.append(option);
  });
  chooser.addEventListener("change", () => {
    Object.assign(state, { run: Number(chooser.value), page: 0, chosen: null });
    detail.replaceChildren();
    draw();
  });
  measure.addEventListener("change", drawScatter);
  search.addEventListener("input", () => { state.page = 0; draw(); });
  get("requests-back").addEventListener("click", () => { state.page = Math.max(0, state.page - 1); drawTable(); });
  get("requests-on").addEventListener("click", () => { state.page += 1; draw(); });
  document.querySelectorAll("#requests-table th[data-sort] button").forEach((button) => {
    button.addEventListener("click", () => {
      const sort = button.parentElement.dataset.sort;
      Object.assign(state, { down: state.sort === sort ? !state.down : sort in MEASURES, sort, page: 0 });
      draw();
    });
  });
  const choose = (event) => {
    const line = event.target.closest("tr[data-index]");
    if (line && (event.type === "click" || event.key === "Enter")) showDetail(rowOf(Number(line.dataset.index)));
  };
  body.addEventListener("click", choose);
  body.addEventListener("keydown", choose);
  canvas.addEventListener("click", (event) => {
    const near = points
      .map((point) => [Math.hypot(point.x - event.offsetX, point.y - event.offsetY), point.row])
      .reduce((best, item) => (item[0] < best[0] ? item : best), [20, null])[1];
    if (near) showDetail(near);
  });
  window.addEventListener("resize", drawScatter);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawScatter);
  draw();
  // A link such as report.html#request-0-17 opens a request.
  const [, number, index] = /^#request-(\d+)-(\d+)$/.exec(location.hash) ?? [];
  if (number && runs[number]) {
    chooser.value = number;
    state.run = Number(number);
    draw();
    const row = rowOf(Number(index));
    if (row) showDetail(row);
  }
})();
