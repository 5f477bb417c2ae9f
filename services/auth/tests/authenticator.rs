//! Credentials, rules and grants, from outside.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests compose a process of their own")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::json;
use tidegauge_auth::{
    AuthError, AuthOptions, Authenticator, Denied, GrantedTenants, TenantClaim, audit_name, bearer_value, create_key,
    create_token,
};
use tidegauge_core::clock::{Clock as _, ManualClock};
use tidegauge_core::scope::{Permission, Role, SystemAuthority};
use tidegauge_core::{TenantId, TenantScope};

const NOW_NS: i64 = 1_770_000_000_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

struct World {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::at(NOW_NS)) }
    }

    fn auth(&self) -> PathBuf {
        self.folder.path().join("auth")
    }

    fn rules_path(&self) -> PathBuf {
        self.folder.path().join("rules.csv")
    }

    fn rules(&self, lines: &str) {
        fs::write(self.rules_path(), format!("UserName,tenant_id\n{lines}")).unwrap();
    }

    fn open(&self, rules: bool) -> Authenticator {
        let options = AuthOptions { folder: self.auth(), rules: rules.then(|| self.rules_path()) };
        Authenticator::open(options, self.clock.clone()).unwrap()
    }

    fn token(&self, user: &str, claim: &TenantClaim, role: Role) -> String {
        create_token(&self.auth(), user, claim, role, Duration::from_secs(600), &*self.clock).unwrap()
    }

    fn key(&self, user: &str, claim: &TenantClaim) -> String {
        create_key(&self.auth(), user, claim, Role::Writer, None, &*self.clock).unwrap()
    }

    /// Signs what it is given with the installation's own key.
    fn forge(&self, header: &Header, claims: &serde_json::Value) -> String {
        let pem = fs::read_to_string(self.auth().join("signing-key")).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = EncodingKey::from_ed_der(&STANDARD.decode(body).unwrap());
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    fn second(&self) {
        self.clock.advance(SECOND_NS);
    }
}

fn tenant(text: &str) -> TenantId {
    TenantId::parse(text).unwrap()
}

fn only(names: &[&str]) -> TenantClaim {
    TenantClaim::Only(names.iter().map(|name| tenant(name)).collect())
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))
}

fn names(tenants: &GrantedTenants) -> Vec<&str> {
    match tenants {
        GrantedTenants::All => vec!["*"],
        GrantedTenants::Only(tenants) => tenants.iter().map(TenantId::as_str).collect(),
    }
}

fn granted(auth: &Authenticator, header: &str) -> Vec<String> {
    let grant = auth.authenticate(Some(header.as_bytes())).unwrap();
    names(&grant.tenants).into_iter().map(str::to_owned).collect()
}

fn denied(auth: &Authenticator, header: &str) -> Denied {
    auth.authenticate(Some(header.as_bytes())).expect_err(header)
}

/// Proves that tokens and keys are accepted as Bearer and Basic, for their own user only, with exactly their tenants,
/// until they expire.
#[test]
fn grants_what_a_credential_says_and_no_longer() {
    let world = World::new();
    let token = world.token("ann", &only(&["t2", "t1", "t1"]), Role::Reader);
    let key = world.key("bot", &only(&["t3"]));
    let auth = world.open(false);

    let grant = auth.authenticate(Some(bearer(&token).as_bytes())).unwrap();
    assert_eq!((&*grant.principal.name, grant.principal.role), ("ann", Role::Reader));
    assert_eq!(names(&grant.tenants), ["t1", "t2"]);
    assert!(grant.credential.starts_with("token:") && !grant.is_service() && grant.via.is_none());
    assert_eq!(audit_name(&token).as_deref(), Some(&*grant.credential));
    let by_key = auth.authenticate(Some(bearer(&key).as_bytes())).unwrap();
    assert_eq!(audit_name(&key).as_deref(), Some(&*by_key.credential));
    assert_eq!(audit_name("a.b.c").or(audit_name("tgk_1_2")).or(audit_name("")), None);
    assert_eq!(grant.expires_at_ns, NOW_NS + 600 * SECOND_NS);

    assert_eq!(granted(&auth, &format!("bEARER  {token}")), ["t1", "t2"]);
    assert_eq!(granted(&auth, &basic("ann", &token)), ["t1", "t2"]);
    assert_eq!(granted(&auth, &bearer(&key)), ["t3"]);
    assert_eq!(granted(&auth, &basic("bot", &key)), ["t3"]);
    assert_eq!(bearer_value(basic("bot", &key).as_bytes()), Some(bearer(&key)));

    assert_eq!(denied(&auth, &basic("bob", &token)), Denied::Invalid);
    assert_eq!(denied(&auth, &basic("ann", &key)), Denied::Invalid);
    assert_eq!(auth.authenticate(None).unwrap_err(), Denied::Missing);

    // The last moment and the first after it; the remembered decision does not outlive the token.
    world.clock.advance(600 * SECOND_NS - 1);
    assert_eq!(granted(&auth, &bearer(&token)), ["t1", "t2"]);
    world.clock.advance(1);
    assert_eq!(denied(&auth, &bearer(&token)), Denied::Expired);
    assert_eq!(auth.recheck(&grant).unwrap_err(), Denied::Expired);
    assert_eq!(granted(&auth, &bearer(&key)), ["t3"]);
}

/// Proves the table of section 10: token's tenants cut down to the rules, rules alone, neither; and who is not cut down.
#[test]
fn effective_tenants_are_the_claims_cut_down_to_the_rules() {
    let world = World::new();
    world.rules("ann,t1\nann,t2\nroot,t1\n");
    type Case<'a> = (&'a str, TenantClaim, Role, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        ("ann", only(&["t2", "t3"]), Role::Reader, &["t2"], &["t2", "t3"]),
        ("ann", TenantClaim::ByRules, Role::Reader, &["t1", "t2"], &[]),
        ("ann", TenantClaim::All, Role::Reader, &["t1", "t2"], &["*"]),
        ("bob", only(&["t1"]), Role::Reader, &[], &["t1"]),
        ("bob", TenantClaim::All, Role::Writer, &[], &["*"]),
        ("bob", TenantClaim::ByRules, Role::Admin, &[], &[]),
        ("root", only(&["t1", "t2"]), Role::Admin, &["t1"], &["t1", "t2"]),
        ("root", TenantClaim::All, Role::Admin, &["*"], &["*"]),
    ];
    let (ruled, free) = (world.open(true), world.open(false));
    for (user, claim, role, with_rules, without) in cases {
        let header = bearer(&world.token(user, &claim, role));
        assert_eq!(granted(&ruled, &header), with_rules, "{user} {claim:?} with rules");
        assert_eq!(granted(&free, &header), without, "{user} {claim:?} without rules");
    }
}

/// Proves that a changed rules file is taken up, that a broken one changes nothing, and that a broken one does not
/// keep a revoked key alive.
#[test]
fn rules_and_keys_are_read_again_each_by_itself() {
    let world = World::new();
    world.rules("ann,t1\n");
    let auth = world.open(true);
    let token = bearer(&world.token("ann", &TenantClaim::ByRules, Role::Reader));
    assert_eq!(granted(&auth, &token), ["t1"]);
    let grant = auth.authenticate(Some(token.as_bytes())).unwrap();
    let first = auth.generation();

    // The same length, within the same second: only its contents tell.
    world.rules("ann,t2\n");
    assert_eq!(granted(&auth, &token), ["t1"], "looked at more than once a second");
    world.second();
    assert_eq!(granted(&auth, &token), ["t2"]);
    assert_eq!(names(&auth.recheck(&grant).unwrap().tenants), ["t2"]);
    assert_eq!(auth.generation(), first + 1);

    let key = world.key("ann", &only(&["t2"]));
    world.second();
    assert_eq!(granted(&auth, &bearer(&key)), ["t2"], "a key that was added beside the running server");

    world.rules("ann,t3\nann\n");
    fs::remove_file(world.auth().join("api-keys.json")).unwrap();
    world.second();
    assert_eq!(granted(&auth, &token), ["t2"], "a broken file changes nothing");
    assert_eq!(denied(&auth, &bearer(&key)), Denied::Invalid, "a removed key is refused all the same");

    fs::remove_file(world.rules_path()).unwrap();
    world.second();
    assert_eq!(granted(&auth, &token), ["t2"], "a missing file changes nothing");

    world.rules("ann,t4\n");
    world.second();
    assert_eq!(granted(&auth, &token), ["t4"]);
}

/// Proves that secrets are private at rest: modes, no secret in the key file, and a refusal of loose modes.
#[test]
fn secrets_are_kept_private() {
    let world = World::new();
    let key = world.key("ann", &only(&["t1"]));
    drop(world.open(false));
    let (_, secret) = key.rsplit_once('_').unwrap();
    let stored = fs::read_to_string(world.auth().join("api-keys.json")).unwrap();
    assert!(!stored.contains(secret) && !stored.contains(&key));
    for name in ["signing-key", "api-keys.json"] {
        let path = world.auth().join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let options = AuthOptions { folder: world.auth(), rules: None };
        let error = Authenticator::open(options, world.clock.clone()).expect_err(name);
        assert!(matches!(&error, AuthError::Mode { .. }) && error.to_string().contains(name), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(fs::metadata(world.auth()).unwrap().permissions().mode() & 0o777, 0o700);
    // What is printed of an authenticator or a grant holds neither.
    let auth = world.open(false);
    let grant = auth.authenticate(Some(bearer(&key).as_bytes())).unwrap();
    assert!(!format!("{auth:?} {grant:?}").contains(secret));
}

/// Proves that credentials which must not exist, or could never be used, are not made.
#[test]
fn senseless_credentials_are_refused() {
    let world = World::new();
    let t1 = || only(&["t1"]);
    let long = Duration::from_secs(60);
    let short = Duration::from_millis(999);
    for (user, claim, role, ttl, problem) in [
        ("", t1(), Role::Reader, long, "must not be empty"),
        ("service:query", t1(), Role::Reader, long, "colon"),
        ("a\nb", t1(), Role::Reader, long, "control characters"),
        (&*"u".repeat(256), t1(), Role::Reader, long, "longer than 255 bytes"),
        ("ann", only(&[]), Role::Reader, long, "for no tenant"),
        ("ann", t1(), Role::Service, long, "role service"),
        ("ann", t1(), Role::Reader, short, "at least a second"),
    ] {
        let token = create_token(&world.auth(), user, &claim, role, ttl, &*world.clock).expect_err(problem);
        let key = create_key(&world.auth(), user, &claim, role, Some(ttl), &*world.clock).expect_err(problem);
        for error in [token.to_string(), key.to_string()] {
            assert!(error.contains(problem), "{error}");
        }
    }
    assert!(!world.auth().exists(), "a refusal leaves nothing behind");

    // A token that no header carries; what is made, passes in every form. A key may name as many as it likes.
    let longest = |count| TenantClaim::Only((0..count).map(|n| tenant(&format!("{n:0>63}"))).collect());
    let long_life = Duration::from_secs(600);
    let made = |count| create_token(&world.auth(), "ann", &longest(count), Role::Reader, long_life, &*world.clock);
    let count = (1..1_000).find(|count| made(count + 1).is_err()).expect("a limit");
    let token = made(count).unwrap();
    let key = world.key("bot", &longest(1_000));
    let auth = world.open(false);
    assert_eq!(granted(&auth, &basic("ann", &token)).len(), count);
    assert_eq!(granted(&auth, &bearer(&token)).len(), count);
    assert_eq!(granted(&auth, &bearer(&key)).len(), 1_000);
}

/// Proves that two commands adding keys at once lose neither, and that all processes share one signing key.
#[test]
fn concurrent_commands_lose_nothing() {
    let world = World::new();
    let made: Vec<(String, String)> = std::thread::scope(|scope| {
        let make = || (world.key("ann", &only(&["t1"])), world.token("ann", &only(&["t1"]), Role::Reader));
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let auth = world.open(false);
    for (key, token) in made {
        assert_eq!(granted(&auth, &bearer(&key)), ["t1"]);
        assert_eq!(granted(&auth, &bearer(&token)), ["t1"]);
    }
}

/// Proves that a service token stands for its service, or for the scope on whose behalf it was made, for a minute.
#[test]
fn service_tokens_name_the_service_and_the_user() {
    let world = World::new();
    world.rules("ann,t1\n");
    let auth = world.open(true);
    let authority = SystemAuthority::for_worker("aggregation");
    let own = auth.service_token(&authority, None).unwrap();
    let grant = auth.authenticate(Some(own.authorization.as_bytes())).unwrap();
    assert_eq!((&*grant.principal.name, grant.principal.role), ("service:aggregation", Role::Service));
    assert!(grant.is_service() && grant.via.is_none() && grant.principal.role.allows(Permission::Internal));
    assert_eq!(names(&grant.tenants), ["*"], "the rules name users, not services");

    let user = auth.authenticate(Some(bearer(&world.token("ann", &TenantClaim::ByRules, Role::Reader)).as_bytes()));
    let scope = TenantScope::granted(user.unwrap().principal.clone(), vec![tenant("t1")]).unwrap();
    let for_user = auth.service_token(&authority, Some(&scope)).unwrap();
    let grant = auth.authenticate(Some(for_user.authorization.as_bytes())).unwrap();
    assert_eq!((&*grant.principal.name, grant.principal.role), ("ann", Role::Reader));
    assert_eq!(&*grant.via.as_ref().unwrap().name, "service:aggregation");
    assert_eq!(names(&grant.tenants), ["t1"]);

    assert!(own.refresh_at_ns < NOW_NS + 60 * SECOND_NS);
    world.clock.advance(60 * SECOND_NS);
    assert_eq!(denied(&auth, &own.authorization), Denied::Expired);
}

/// Proves that nothing passes but our own token in its exact form: every deviation is signed with the right key, so
/// that only the rule in question refuses it.
#[test]
fn deviating_tokens_are_refused() {
    let world = World::new();
    let auth = world.open(false);
    let now = (NOW_NS / SECOND_NS) as u64;
    let kid = jsonwebtoken::decode_header(world.token("ann", &only(&["t1"]), Role::Reader)).unwrap().kid;
    let header = Header { kid: kid.clone(), ..Header::new(Algorithm::EdDSA) };
    let user = || {
        json!({"iss": "tidegauge", "aud": "tidegauge", "sub": "ann", "iat": now, "exp": now + 60, "jti": "x",
               "role": "reader", "tenants": ["t1"]})
    };
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = user();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = user();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    assert_eq!(granted(&auth, &bearer(&world.forge(&header, &user()))), ["t1"]);
    let several = with("aud", json!(["other", "tidegauge"]));
    assert_eq!(granted(&auth, &bearer(&world.forge(&header, &several))), ["t1"]);
    assert!(granted(&auth, &bearer(&world.forge(&header, &without("tenants")))).is_empty());

    for claims in [
        without("iss"),
        without("aud"),
        without("exp"),
        without("sub"),
        without("role"),
        with("iss", json!("other")),
        with("aud", json!("other")),
        with("aud", json!([])),
        with("aud", json!(7)),
        with("exp", json!("soon")),
        with("exp", json!(-1)),
        with("exp", json!(now)),
        with("nbf", json!(now + 1)),
        with("sub", json!("")),
        with("sub", json!("a\nb")),
        with("sub", json!("service:aggregation")),
        with("role", json!("service")),
        with("role", json!("Admin")),
        with("role", json!("root")),
        with("all_tenants", json!(true)),
        with("tenants", json!(["T1"])),
        with("tenants", json!("t1")),
        with("aud", json!("tidegauge-internal")),
        with("aud", json!(["tidegauge", "tidegauge-internal"])).clone(),
        with("on_behalf_of", json!({"sub": "bob", "role": "admin", "all_tenants": true})),
    ] {
        let both = claims["aud"] == json!(["tidegauge", "tidegauge-internal"]);
        let result = auth.authenticate(Some(bearer(&world.forge(&header, &claims)).as_bytes()));
        // Both audiences are a user's token and nothing more.
        assert_eq!(result.is_ok(), both, "{claims}");
    }
    // A service token that would live longer, has no service's name, or hands on a user without tenants.
    let service = json!({"iss": "tidegauge", "aud": "tidegauge-internal", "sub": "service:x", "iat": now,
                         "exp": now + 60, "role": "service", "all_tenants": true});
    assert_eq!(granted(&auth, &bearer(&world.forge(&header, &service))), ["*"]);
    for (name, value) in [
        ("exp", json!(now + 61)),
        ("sub", json!("ann")),
        ("role", json!("admin")),
        ("on_behalf_of", json!({"sub": "ann", "role": "reader"})),
    ] {
        let mut claims = service.clone();
        claims[name] = value;
        assert_eq!(denied(&auth, &bearer(&world.forge(&header, &claims))), Denied::Invalid, "{claims}");
    }

    for header in [
        Header { kid: None, ..header.clone() },
        Header { kid: Some("other".to_owned()), ..header.clone() },
        Header { crit: Some(vec!["b64".to_owned()]), ..header.clone() },
    ] {
        assert_eq!(denied(&auth, &bearer(&world.forge(&header, &user()))), Denied::Invalid, "{header:?}");
    }
    // What cannot be a credential by its size alone is not looked at further.
    for huge in
        [bearer(&"a".repeat(25 << 10)), bearer(&format!("{}.e30.{}", "A".repeat(12 << 10), "A".repeat(13 << 10)))]
    {
        assert_eq!(denied(&auth, &huge), Denied::Invalid);
    }
    // Another algorithm of the same key, by the header alone.
    for alg in ["none", "None", "HS256", "RS256", "ES256", "PS256", "EdDSA256", "ed25519"] {
        let mut parts: Vec<String> = world.forge(&header, &user()).split('.').map(str::to_owned).collect();
        parts[0] = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT", "kid": kid}).to_string());
        assert_eq!(denied(&auth, &bearer(&parts.join("."))), Denied::Invalid, "{alg}");
    }
    // No signature, and a signature by the public part as a shared secret.
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!("{}.{}.", part(&json!({"alg": "none", "kid": kid})), part(&user()));
    assert_eq!(denied(&auth, &bearer(&none)), Denied::Invalid);
    let mac = format!("{}.{}.AAAA", part(&json!({"alg": "HS256", "kid": kid})), part(&user()));
    assert_eq!(denied(&auth, &bearer(&mac)), Denied::Invalid);
    // Another installation's token.
    let stranger = World::new().token("ann", &TenantClaim::All, Role::Admin);
    assert_eq!(denied(&auth, &bearer(&stranger)), Denied::Invalid);
}

/// Proves that no single changed, dropped or added byte of a valid credential is accepted.
#[test]
fn tampering_with_any_byte_is_refused() {
    let world = World::new();
    let token = bearer(&world.token("ann", &only(&["t1"]), Role::Reader));
    let key = bearer(&world.key("ann", &only(&["t1"])));
    let auth = world.open(false);
    for good in [token, key] {
        assert!(auth.authenticate(Some(good.as_bytes())).is_ok());
        let start = "Bearer ".len();
        for at in start..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone().into_bytes();
                bad[at] ^= 1 << bit;
                assert!(auth.authenticate(Some(&bad)).is_err(), "bit {bit} of byte {at} of {good}");
            }
            let mut shorter = good.clone().into_bytes();
            shorter.remove(at);
            assert!(auth.authenticate(Some(&shorter)).is_err(), "without byte {at} of {good}");
        }
        assert!(auth.authenticate(Some(format!("{good}A").as_bytes())).is_err());
        assert!(auth.authenticate(Some(format!("{good}=").as_bytes())).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Proves that no garbage panics or grants anything: raw bytes, and bytes in the shape of each credential.
    #[test]
    fn garbage_grants_nothing(
        raw in proptest::collection::vec(any::<u8>(), 0..200),
        text in "\\PC{0,80}",
        hex in "[0-9a-f]{0,70}",
    ) {
        thread_local! {
            static WORLD: (World, Authenticator) = {
                let world = World::new();
                world.key("ann", &only(&["t1"]));
                let auth = world.open(false);
                (world, auth)
            };
        }
        WORLD.with(|(world, auth)| {
            assert!(world.clock.wall_ns() == NOW_NS);
            let jwt = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&raw), hex);
            for value in [
                raw.clone(),
                [b"Bearer ", &raw[..]].concat(),
                [b"Basic ", &raw[..]].concat(),
                bearer(&text).into_bytes(),
                basic(&text, &hex).into_bytes(),
                bearer(&jwt).into_bytes(),
                bearer(&format!("tgk_{hex}")).into_bytes(),
                bearer(&format!("tgk_0123456789abcdef_{hex}")).into_bytes(),
                basic("ann", &format!("tgk_{text}_{hex}")).into_bytes(),
            ] {
                prop_assert!(auth.authenticate(Some(&value)).is_err());
                let _ = bearer_value(&value);
            }
            Ok(())
        })?;
    }
}
