//! Link flags for a Node native addon.
#![expect(clippy::disallowed_methods, reason = "cargo configures a build script by its environment")]

fn main() {
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    // `dyn-symbols` looks up Node's functions when the addon is loaded, so Windows needs no import library.
    if system != "windows" {
        napi_build::setup();
    }
    // Node unloads an addon when the last worker that used it ends, while the async thread may still run its code.
    if system == "linux" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
