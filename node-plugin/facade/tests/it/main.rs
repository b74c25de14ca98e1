//! The facade from end to end: a client, TCP with mutual TLS, a server, and the platform in memory.

mod authority;
mod calls;
mod described;
mod errors;
mod fenced;
mod hostile;
mod local;
mod lost;
mod node;
mod raw;
mod rotation;
mod strangers;
