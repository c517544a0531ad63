//! The program: parse, telemetry, supervise; nothing else.

fn main() {}
