//! Recognizes keys of other companies by their prefix.

/// Prefixes of secrets, and their makers.
pub const PREFIXES: [(&str, &str); 56] = [
    ("sk-ant-", "Anthropic"),
    ("sk-proj-", "OpenAI"),
    ("sk-svcacct-", "OpenAI"),
    ("sk-service-", "OpenAI"),
    ("sk-admin-", "OpenAI"),
    ("sk-None-", "OpenAI"),
    ("sess-", "OpenAI"),
    ("sk-or-", "OpenRouter"),
    ("sk-kimi-", "Moonshot"),
    ("sk-cp-", "MiniMax"),
    ("sk-api-", "MiniMax"),
    ("sk-lf-", "Langfuse"),
    ("sk-helicone-", "Helicone"),
    ("sk-litellm-", "LiteLLM"),
    ("sk_live_", "Stripe"),
    ("sk_test_", "Stripe"),
    ("rk_live_", "Stripe"),
    ("whsec_", "Stripe"),
    ("ghp_", "GitHub"),
    ("gho_", "GitHub"),
    ("ghs_", "GitHub"),
    ("ghu_", "GitHub"),
    ("ghr_", "GitHub"),
    ("github_pat_", "GitHub"),
    ("glpat-", "GitLab"),
    ("AKIA", "AWS"),
    ("ASIA", "AWS"),
    ("AIza", "Google"),
    ("ya29.", "Google"),
    ("xoxa-", "Slack"),
    ("xoxb-", "Slack"),
    ("xoxe", "Slack"),
    ("xoxp-", "Slack"),
    ("xoxr-", "Slack"),
    ("xoxs-", "Slack"),
    ("xapp-", "Slack"),
    ("hf_", "Hugging Face"),
    ("gsk_", "Groq"),
    ("csk-", "Cerebras"),
    ("pplx-", "Perplexity"),
    ("r8_", "Replicate"),
    ("tgp_v1_", "Together"),
    ("fw_", "Fireworks"),
    ("dop_v1_", "DigitalOcean"),
    ("npm_", "npm"),
    ("pypi-", "PyPI"),
    ("nvapi-", "NVIDIA"),
    ("xai-", "xAI"),
    ("pk-lf-", "Langfuse"),
    ("gldt-", "GitLab"),
    ("shpat_", "Shopify"),
    ("tvly-", "Tavily"),
    ("lin_api_", "Linear"),
    ("ntn_", "Notion"),
    ("sqp_", "SonarQube"),
    ("SG.", "SendGrid"),
];

/// Text inside the keys of `OpenAI`: its name in base64.
pub const OPENAI_MARK: &str = "T3BlbkFJ";

/// Returns the part of a key that shows its maker, and the maker; `None` if it may be Alibaba's.
#[must_use]
pub fn foreign_maker(key: &str) -> Option<(&'static str, &'static str)> {
    let mut key = key;
    // A prefix may have been typed before the pasted key.
    while let Some(rest) = key.strip_prefix("sk-sp-").or_else(|| key.strip_prefix("sk-"))
        && rest.starts_with("sk-")
    {
        key = rest;
    }
    let by_prefix = PREFIXES.into_iter().find(|(prefix, _)| key.starts_with(prefix));
    by_prefix.or_else(|| key.contains(OPENAI_MARK).then_some((OPENAI_MARK, "OpenAI")))
}
