//! The engine by its actions: each test is a sequence of events, and what must come out.

mod bench;
mod copies;
mod durable;
mod gate;
mod random;
mod requests;
mod restore;
