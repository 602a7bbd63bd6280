//! Link flags for a Node native addon.
#![expect(clippy::disallowed_methods, reason = "cargo configures a build script by its environment")]

fn main() {
    if std::env::var_os("CARGO_FEATURE_NAPI_BINDING").is_none() {
        return;
    }
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    // Node's functions are looked up when the addon is loaded (`dyn-symbols`), so Windows needs no import library.
    if system != "windows" {
        napi_build::setup();
    }
    // Node unloads an addon when the last worker that used it ends, while the async thread may still be running its code.
    if system == "linux" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
