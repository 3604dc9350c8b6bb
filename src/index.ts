/** What programs that embed the engine import. */
export { type Config, loadConfig } from './config.ts';
export { type Engine, type EngineOptions, startEngine } from './engine.ts';
export { SubitoError } from './errors.ts';
export type { FieldSpec, Handler, HandlerModel, RowCodec, RowView } from './infer/handler.ts';
export { InvalidEvent } from './infer/handler.ts';
