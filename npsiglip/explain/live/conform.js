/* This port against a conformance pack (docs/packs.md), in Node:

       npsiglip golden export --model builtin -o pack
       npsiglip verify --pack pack --candidate "node npsiglip/explain/live/conform.js" */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { read_safetensors, results, write_safetensors } from "./pack.js";

const [pack, folder] = process.argv.slice(2), read = (name) => existsSync(`${pack}/${name}`) && readFileSync(`${pack}/${name}`);
const settings = read("model/preprocessor_config.json");
const found = results({
  about: JSON.parse(read("pack.json")),
  tensors: read_safetensors(new Uint8Array(read("tensors.safetensors"))),
  spiece: read("model/spiece.model") && new Uint8Array(read("model/spiece.model")),
  settings: settings && JSON.parse(settings),
});
writeFileSync(`${folder}/results.safetensors`, write_safetensors(found));
