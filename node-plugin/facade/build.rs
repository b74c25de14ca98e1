//! Generates the wire types and the descriptors that server reflection hands out.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // What both APIs speak of is one set of types.
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("facade.bin"))
        .extern_path(".umbra.platform.v1alpha1", "::umbra_platform::wire::pb")
        .compile_protos(&["proto/umbra/facade/v1alpha1/facade.proto"], &["proto", "../platform/proto"])?;
    Ok(())
}
