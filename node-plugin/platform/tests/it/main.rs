//! The platform API from end to end: a client, a real Unix socket, a server and the fake.

mod calls;
mod described;
mod errors;
mod hostile;
mod node;
mod samples;
mod socket;
