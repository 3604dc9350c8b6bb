// Redis' Lua for the model: a Lua 5.1 machine (WebAssembly) with the `redis` table of Redis 7.0, so that the
// scripts of src/redis/lua run as they are. One machine serves all models of a process; each script is
// compiled once.
import { createHash } from 'node:crypto';
import { LuaApi } from 'wasmoon-lua5.1';
import { unpackColumns } from './msgpack.ts';
import { ErrorReply, NIL_ARRAY, Status, type Value } from './values.ts';

/** The C functions of Lua 5.1 that are used here; pointers and states are numbers. */
interface LuaC {
  readonly HEAPU8: Uint8Array;
  readonly HEAPU32: Uint32Array;
  addFunction(f: (state: number) => number, signature: string): number;
  _malloc(bytes: number): number;
  _luaL_newstate(): number;
  _luaL_openlibs(L: number): void;
  _luaL_loadbuffer(L: number, text: number, bytes: number, name: number): number;
  _luaL_ref(L: number, table: number): number;
  _lua_checkstack(L: number, slots: number): number;
  _lua_createtable(L: number, array: number, fields: number): void;
  _lua_error(L: number): number;
  _lua_getfield(L: number, index: number, name: number): void;
  _lua_gettop(L: number): number;
  _lua_pcall(L: number, args: number, results: number, handler: number): number;
  _lua_pushboolean(L: number, value: number): void;
  _lua_pushcclosure(L: number, f: number, upvalues: number): void;
  _lua_pushlstring(L: number, at: number, bytes: number): void;
  _lua_pushnil(L: number): void;
  _lua_pushnumber(L: number, value: number): void;
  _lua_rawget(L: number, index: number): void;
  _lua_rawgeti(L: number, index: number, n: number): void;
  _lua_rawseti(L: number, index: number, n: number): void;
  _lua_setfield(L: number, index: number, name: number): void;
  _lua_settop(L: number, index: number): void;
  _lua_toboolean(L: number, index: number): number;
  _lua_tolstring(L: number, index: number, bytes: number): number;
  _lua_tonumber(L: number, index: number): number;
  _lua_type(L: number, index: number): number;
}

const TYPE = { nil: 0, boolean: 1, number: 3, string: 4, table: 5 } as const;
const REGISTRY = -10_000;
const GLOBALS = -10_002;
const LONG_STRING = 64;

/**
 * What Redis gives to scripts, as far as ours need it. `raw` is the model; a second result says that the
 * first one is an error to raise. The handler finds the line of the script, as Redis' own does.
 */
const PRELUDE = `
local sha1 = __sha1
local getinfo = debug.getinfo
local reply = function(text)
  if type(text) ~= 'string' then return { err = 'ERR wrong number or type of arguments' } end
  text = text:gsub('^-', '')
  local code, rest = text:match('^([^ ]*) (.*)$')
  if not code then code, rest = 'ERR', text end
  return { err = code .. ' ' .. rest:gsub('^[\\r\\n]+', ''):gsub('[\\r\\n]+$', '') }
end
redis = {
  call = __call,
  pcall = __pcall,
  sha1hex = sha1,
  error_reply = reply,
  status_reply = function(text) return { ok = text } end,
  log = function() end,
  setresp = function() end,
  replicate_commands = function() return true end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
}
-- Errors of commands are texts to those who catch them.
local caught = pcall
local function first(ok, result, ...)
  if not ok and type(result) == 'table' and result.err then return false, result.err end
  return ok, result, ...
end
pcall = function(...) return first(caught(...)) end
__handler = function(err)
  if type(err) ~= 'table' then err = { err = 'ERR ' .. tostring(err) } end
  for level = 2, 20 do
    local info = getinfo(level, 'Sl')
    if not info then break end
    if info.source == '@user_script' then
      err.line = tostring(info.currentline)
      break
    end
  end
  return err
end
-- The machine's C has whole numbers of 32 bits; the server's of 64.
local format, floor, ceil = string.format, math.floor, math.ceil
string.format = function(template, ...)
  local args, count, at = { ... }, select('#', ...), 0
  template = template:gsub('%%([-+ #0]*%d*)(%.?%d*)(.)', function(flags, precision, kind)
    if kind == '%' then return nil end
    at = at + 1
    local value = tonumber(args[at])
    if (kind ~= 'd' and kind ~= 'i') or precision ~= '' or not value then return nil end
    args[at] = value < 0 and ceil(value) or floor(value)
    return '%' .. flags .. '.0f'
  end)
  return format(template, unpack(args, 1, count))
end
cmsgpack = { unpack = __unpack }
KEYS, ARGV = {}, {}
__call, __pcall, __sha1, __unpack, debug, io, os, package = nil, nil, nil, nil, nil, nil, nil, nil
require, dofile, loadfile, print, newproxy, module = nil, nil, nil, nil, nil, nil
setmetatable(_G, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
  __newindex = function() error('Attempt to modify a readonly table', 2) end,
})
`;

/** Runs a command of a script; strings in, as Redis would see them. */
export type ScriptCall = (args: string[]) => Value;

export class LuaMachine {
  readonly #c: LuaC;
  readonly #state: number;
  /** Scratch memory for strings that go in; grows. */
  #scratch: number;
  #scratchBytes = 1 << 16;
  readonly #lengthAt: number;
  readonly #names = new Map<string, number>();
  /** Compiled scripts: references in Lua's registry, or the error that compiling gave. */
  readonly #compiled = new Map<string, number | ErrorReply>();
  #call: ScriptCall = () => new ErrorReply('ERR redis.call outside of a script');

  private constructor(c: LuaC) {
    this.#c = c;
    this.#scratch = c._malloc(this.#scratchBytes);
    this.#lengthAt = c._malloc(8);
    const state = c._luaL_newstate();
    this.#state = state;
    c._luaL_openlibs(state);
    this.#setGlobal('__call', () => (this.#called() ? c._lua_error(state) : 1));
    this.#setGlobal('__pcall', () => {
      this.#called();
      return 1;
    });
    this.#setGlobal('__sha1', () => {
      const hex = createHash('sha1').update(this.#string(1), 'latin1').digest('hex');
      this.#pushString(hex);
      return 1;
    });
    this.#setGlobal('__unpack', () => {
      const columns = unpackColumns(this.#string(1));
      c._lua_settop(state, 0);
      for (const column of columns) this.#push(column);
      return columns.length;
    });
    const loaded = this.#load(PRELUDE, '=prelude');
    if (loaded !== null || c._lua_pcall(state, 0, 0, 0) !== 0)
      throw new Error(`the prelude does not run: ${loaded ?? this.#string(-1)}`);
  }

  static async start(): Promise<LuaMachine> {
    const { module } = await LuaApi.initialize();
    return new LuaMachine(module as unknown as LuaC);
  }

  /** Null when the script compiles, else the error of SCRIPT LOAD. */
  check(script: string): ErrorReply | null {
    const compiled = this.#compile(script);
    return typeof compiled === 'number' ? null : compiled;
  }

  /** Runs a script to its end. `sha` is for error messages. */
  run(
    script: string,
    sha: string,
    keys: readonly string[],
    args: readonly string[],
    call: ScriptCall,
  ): Value {
    const compiled = this.#compile(script);
    if (typeof compiled !== 'number') return compiled;
    const c = this.#c;
    const L = this.#state;
    const top = c._lua_gettop(L);
    const outer = this.#call;
    this.#call = call;
    try {
      this.#setArray('KEYS', keys);
      this.#setArray('ARGV', args);
      c._lua_getfield(L, GLOBALS, this.#name('__handler'));
      c._lua_rawgeti(L, REGISTRY, compiled);
      const failed = c._lua_pcall(L, 0, 1, top + 1) !== 0;
      return failed ? this.#failure(sha) : this.#result(top + 2);
    } finally {
      this.#call = outer;
      c._lua_settop(L, top);
    }
  }

  #compile(script: string): number | ErrorReply {
    let compiled = this.#compiled.get(script);
    if (compiled === undefined) {
      const shebang = script.startsWith('#!') ? script.indexOf('\n') : 0;
      const message = this.#load(script.slice(shebang), '@user_script');
      compiled =
        message === null
          ? this.#c._luaL_ref(this.#state, REGISTRY)
          : new ErrorReply(`ERR Error compiling script (new function): ${message}`);
      this.#compiled.set(script, compiled);
    }
    return compiled;
  }

  /** Leaves the chunk on the stack; or returns the message against it. */
  #load(source: string, name: string): string | null {
    const c = this.#c;
    const bytes = this.#write(source);
    if (c._luaL_loadbuffer(this.#state, this.#scratch, bytes, this.#name(name)) === 0) return null;
    const message = this.#string(-1);
    c._lua_settop(this.#state, -2);
    return message;
  }

  #failure(sha: string): ErrorReply {
    const c = this.#c;
    const L = this.#state;
    if (c._lua_type(L, -1) !== TYPE.table) return new ErrorReply(`ERR ${this.#string(-1)}`);
    c._lua_getfield(L, -1, this.#name('line'));
    const line = c._lua_type(L, -1) === TYPE.nil ? '' : this.#string(-1);
    c._lua_settop(L, -2);
    c._lua_getfield(L, -1, this.#name('err'));
    const message = this.#string(-1);
    return new ErrorReply(line === '' ? message : `${message} script: ${sha}, on @user_script:${line}.`);
  }

  /**
   * redis.call and redis.pcall: what is on the stack is the command; leaves the reply there instead. True
   * when it is an error.
   */
  #called(): boolean {
    const c = this.#c;
    const L = this.#state;
    const count = c._lua_gettop(L);
    const args: string[] = [];
    let reply: Value | null = null;
    if (count === 0)
      reply = new ErrorReply('ERR Please specify at least one argument for this redis lib call');
    for (let i = 1; i <= count; i += 1) {
      const type = c._lua_type(L, i);
      if (type === TYPE.number) args.push(numberText(c._lua_tonumber(L, i)));
      else if (type === TYPE.string) args.push(this.#string(i));
      else reply = new ErrorReply('ERR Lua redis lib command arguments must be strings or integers');
    }
    c._lua_settop(L, 0);
    reply ??= this.#call(args);
    this.#push(reply);
    return reply instanceof ErrorReply;
  }

  #push(value: Value): void {
    const c = this.#c;
    const L = this.#state;
    if (typeof value === 'string') this.#pushString(value);
    else if (typeof value === 'number') c._lua_pushnumber(L, value);
    else if (value === null || value === NIL_ARRAY) c._lua_pushboolean(L, 0);
    else if (value instanceof Status || value instanceof ErrorReply) {
      c._lua_createtable(L, 0, 1);
      this.#pushString(value.text);
      c._lua_setfield(L, -2, this.#name(value instanceof Status ? 'ok' : 'err'));
    } else {
      c._lua_checkstack(L, 4);
      c._lua_createtable(L, value.length, 0);
      for (let i = 0; i < value.length; i += 1) {
        this.#push(value[i] as Value);
        c._lua_rawseti(L, -2, i + 1);
      }
    }
  }

  /** What a script returned becomes a reply: numbers lose their fraction, arrays end at the first nil. */
  #result(index: number): Value {
    const c = this.#c;
    const L = this.#state;
    const type = c._lua_type(L, index);
    if (type === TYPE.string) return this.#string(index);
    if (type === TYPE.number) return Math.trunc(c._lua_tonumber(L, index));
    if (type === TYPE.boolean) return c._lua_toboolean(L, index) === 0 ? null : 1;
    if (type !== TYPE.table) return null;
    c._lua_checkstack(L, 4);
    const at = c._lua_gettop(L) + 1;
    for (const field of ['err', 'ok'] as const) {
      this.#pushString(field);
      c._lua_rawget(L, index);
      const found = c._lua_type(L, at) === TYPE.string ? this.#string(at) : null;
      c._lua_settop(L, at - 1);
      if (found !== null) return field === 'err' ? new ErrorReply(found) : new Status(found);
    }
    const items: Value[] = [];
    for (let n = 1; ; n += 1) {
      c._lua_rawgeti(L, index, n);
      if (c._lua_type(L, at) === TYPE.nil) break;
      items.push(this.#result(at));
      c._lua_settop(L, at - 1);
    }
    c._lua_settop(L, at - 1);
    return items;
  }

  #setArray(name: string, items: readonly string[]): void {
    const c = this.#c;
    const L = this.#state;
    c._lua_createtable(L, items.length, 0);
    for (let i = 0; i < items.length; i += 1) {
      this.#pushString(items[i] as string);
      c._lua_rawseti(L, -2, i + 1);
    }
    c._lua_setfield(L, GLOBALS, this.#name(name));
  }

  #setGlobal(name: string, f: () => number): void {
    const c = this.#c;
    c._lua_pushcclosure(this.#state, c.addFunction(f, 'ii'), 0);
    c._lua_setfield(this.#state, GLOBALS, this.#name(name));
  }

  #pushString(value: string): void {
    this.#c._lua_pushlstring(this.#state, this.#scratch, this.#write(value));
  }

  /** Copies a string into the scratch memory; returns its length. */
  #write(value: string): number {
    const { length } = value;
    if (length > this.#scratchBytes) {
      this.#scratchBytes = length * 2;
      this.#scratch = this.#c._malloc(this.#scratchBytes);
    }
    const heap = this.#c.HEAPU8;
    const at = this.#scratch;
    if (length > LONG_STRING) Buffer.from(heap.buffer, at, length).write(value, 'latin1');
    else for (let i = 0; i < length; i += 1) heap[at + i] = value.charCodeAt(i);
    return length;
  }

  /** The string, or the number as Lua writes it, at `index`. */
  #string(index: number): string {
    const c = this.#c;
    const at = c._lua_tolstring(this.#state, index, this.#lengthAt);
    if (at === 0) return '';
    const length = c.HEAPU32[this.#lengthAt >> 2] as number;
    const heap = c.HEAPU8;
    if (length > LONG_STRING) return Buffer.from(heap.buffer, at, length).toString('latin1');
    let value = '';
    for (let i = 0; i < length; i += 1) value += String.fromCharCode(heap[at + i] as number);
    return value;
  }

  /** A name as a C string that stays. */
  #name(name: string): number {
    let at = this.#names.get(name);
    if (at === undefined) {
      at = this.#c._malloc(name.length + 1);
      for (let i = 0; i < name.length; i += 1) this.#c.HEAPU8[at + i] = name.charCodeAt(i);
      this.#c.HEAPU8[at + name.length] = 0;
      this.#names.set(name, at);
    }
    return at;
  }
}

/** `%.17g`: how Redis writes a number that a script hands to a command. */
function numberText(value: number): string {
  if (Number.isSafeInteger(value)) return Object.is(value, -0) ? '-0' : String(value);
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  const exponent = Math.floor(Math.log10(Math.abs(value)));
  if (exponent < -5 || exponent >= 17)
    return value
      .toExponential(16)
      .replace(/\.?0+e/, 'e')
      .replace(/e([+-])(\d)$/, 'e$10$2');
  return value.toPrecision(17).replace(/\.?0+$/, '');
}
