// The page of the API, made from /api/openapi.json without anything from the network.
"use strict";

const EXAMPLES = {
  "get /api/health": "/api/health", "get /api/indexes": "/api/indexes", "get /api/search": "/api/search?q=a+red+ring&k=3",
};

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function kind(schema) { return (schema.anyOf ?? [schema]).map((part) => part.type).filter((type) => type !== "null").join(" or "); }

function table(parameters) {
  const head = element("tr", "", ...["Parameter", "Type", "Default", "Meaning"].map((name) => element("th", name)));
  const rows = parameters.map(({ name, required, schema, description }) => element("tr", "",
    element("td", "", element("code", name)), element("td", kind(schema)),
    element("td", required ? "required" : String(schema.default ?? "")), element("td", description ?? schema.description ?? "")));
  const box = element("div", "", element("table", "", element("thead", "", head), element("tbody", "", ...rows)));
  box.className = "scrolls";
  box.tabIndex = 0;
  return box;
}

function section(path, method, { description, parameters = [] }) {
  const box = element("section", "", element("h2", "", element("code", `${method.toUpperCase()} ${path}`)), element("p", description));
  if (parameters.length) box.append(table(parameters));
  const address = EXAMPLES[`${method} ${path}`];
  if (address) {
    const link = element("a", address);
    link.href = address;
    box.append(element("p", "Example: ", link));
  }
  return box;
}

async function start() {
  const { paths } = await (await fetch("/api/openapi.json")).json();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (method !== "head") document.getElementById("operations").append(section(path, method, operation));
    }
  }
}

start();
