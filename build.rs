//! Link flags for a Node native addon.
#![expect(clippy::disallowed_methods, reason = "cargo configures a build script by its environment")]

fn main() {
    if std::env::var_os("CARGO_FEATURE_NAPI_BINDING").is_none() {
        return;
    }
    napi_build::setup();
    // Node unloads an addon when the last worker that used it ends, while the async thread may still be running its code.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
