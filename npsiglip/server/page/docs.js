// The OpenAPI document of this server, to be read.

import { element } from "./element.js";

function short(schema, all, depth = 0) {
  if (!schema) return "";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return depth > 4 ? name : short(all[name], all, depth);
  }
  const several = schema.anyOf || schema.oneOf;
  if (several) return several.map((each) => short(each, all, depth)).join(" | ");
  if (schema.enum || "const" in schema) return (schema.enum || [schema.const]).map((each) => JSON.stringify(each)).join(" | ");
  if (schema.type === "array") return `[${short(schema.items, all, depth)}, …]`;
  if (schema.type !== "object" || !schema.properties) return schema.type || "anything";
  const space = "  ".repeat(depth + 1), needed = schema.required || [];
  const lines = Object.entries(schema.properties).map(([name, each]) => {
    const about = [needed.includes(name) ? "" : "optional", each.default !== undefined && each.default !== null ? `default ${JSON.stringify(each.default)}` : "",
      each.description || ""].filter(Boolean).join("; ");
    return `${space}${name}: ${short(each, all, depth + 1)}${about ? `   // ${about}` : ""}`;
  });
  return `{\n${lines.join("\n")}\n${"  ".repeat(depth)}}`;
}

function route(path, method, about, all) {
  const content = (each) => Object.values(each?.content || {})[0]?.schema;
  const parts = [element("p", { textContent: about.description || "" })];
  const request = content(about.requestBody), answer = content(about.responses?.["200"]);
  for (const each of about.parameters || []) parts.push(element("p", {}, element("code", { textContent: each.name }), ` in ${each.in}`));
  if (request) parts.push(element("h4", { textContent: "Request" }), element("pre", { tabIndex: 0, textContent: short(request, all) }));
  if (answer) parts.push(element("h4", { textContent: "Answer" }), element("pre", { tabIndex: 0, textContent: short(answer, all) }));
  return element("details", {}, element("summary", {}, element("span", { className: "method", textContent: method.toUpperCase() }),
    element("code", { textContent: path }), `  ${about.summary || ""}`), ...parts);
}

const openapi = await (await fetch("/openapi.json")).json();
const groups = new Map();
for (const [path, methods] of Object.entries(openapi.paths)) {
  for (const [method, about] of Object.entries(methods)) {
    const tag = about.tags?.[0] || "other";
    groups.set(tag, [...(groups.get(tag) || []), route(path, method, about, openapi.components?.schemas || {})]);
  }
}
document.getElementById("routes").replaceChildren(...[...groups].map(([tag, routes]) =>
  element("section", {}, element("h2", { textContent: tag }), ...routes)));
