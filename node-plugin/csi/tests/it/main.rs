//! The plugin over its sockets, in front of a platform in memory; and its mounts, on loop devices.

mod mounts;
mod registration;
mod services;
mod world;
