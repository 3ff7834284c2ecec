//! Restoring the settings of a bucket.

use super::{Change, Error, Result, Run};
use crate::format::{Place, Setting};
use crate::progress::Phase;
use crate::target::BucketTarget;

/// Set before objects are put, in this order: they decide how.
const BEFORE: [&str; 2] = ["versioning", "encryption"];
/// Set after them: they could hinder, remove, lock or announce what is put.
const AFTER: [&str; 6] = ["object-lock", "tagging", "cors", "lifecycle", "policy", "notification"];

/// The snapshot's settings that the target does not have so, in order.
#[derive(Default)]
pub(super) struct Planned {
    before: Vec<Setting>,
    after: Vec<Setting>,
}

impl Planned {
    fn of(mut settings: Vec<Setting>) -> Planned {
        let mut take = |names: &[&str]| {
            let found = names.iter().filter_map(|name| {
                let at = settings.iter().position(|setting| setting.name == *name)?;
                Some(settings.swap_remove(at))
            });
            found.collect()
        };
        Planned { before: take(&BEFORE), after: take(&AFTER) }
    }

    /// Whether versioning will be turned on.
    pub fn versioning(&self) -> bool {
        let on = |setting: &Setting| setting.name == "versioning" && setting.body.contains(">Enabled<");
        self.before.iter().any(on)
    }
}

/// A policy names its bucket.
fn for_bucket(policy: &str, from: &str, to: &str) -> String {
    let named = |bucket: &str, end: char| format!(":::{bucket}{end}");
    ['/', '"'].iter().fold(policy.to_owned(), |body, end| body.replace(&named(from, *end), &named(to, *end)))
}

impl Run<'_> {
    /// Compares with what is set in the target. What is set otherwise is a reason to refuse.
    pub(super) fn plan_settings(&self, target: &BucketTarget) -> Result<Planned> {
        let Some(capture) =
            self.moment.info.snapshot.objects.as_ref().filter(|_| self.options.bucket_settings)
        else {
            return Ok(Planned::default());
        };
        let context = self.repository.context();
        context.progress.begin(Phase { name: "comparing settings", unit: "settings" });
        let there = context.runtime.block_on(self.target_as_source()?.settings());
        if let Some(why) = there.failed.first() {
            return Err(Error::Settings(why.clone()));
        }
        let mut wanted = capture.settings.clone();
        if let Place::Bucket { name, .. } = &capture.place {
            for setting in wanted.iter_mut().filter(|setting| setting.name == "policy") {
                setting.body = for_bucket(&setting.body, name, target.name());
            }
        }
        wanted.retain(|wanted| !there.known.contains(wanted));
        let other = wanted.iter().filter(|wanted| there.known.iter().any(|there| there.name == wanted.name));
        let other: Vec<&Setting> = other.collect();
        if let (Some(example), false) = (other.first(), self.options.overwrite) {
            return Err(Error::NotEmpty {
                target: "the bucket",
                unit: "settings",
                differs: other.len() as u64,
                extra: 0,
                example: example.name.clone(),
            });
        }
        Ok(Planned::of(wanted))
    }

    pub(super) fn set_before(&mut self, target: &BucketTarget, planned: &Planned) -> Result<()> {
        self.set(target, &planned.before)
    }

    pub(super) fn set_after(&mut self, target: &BucketTarget, planned: &Planned) -> Result<()> {
        self.set(target, &planned.after)
    }

    fn set(&mut self, target: &BucketTarget, settings: &[Setting]) -> Result<()> {
        for setting in settings {
            self.repository.context().cancel.check()?;
            (self.show)(Change { side: "settings", action: "put", key: setting.name.clone().into_bytes() });
            if self.options.dry_run {
                continue;
            }
            match self.repository.context().runtime.block_on(target.set(setting)) {
                Ok(()) => self.settings.push(setting.name.clone()),
                Err(error) => match error.refusal() {
                    Some(why) => {
                        let name = &setting.name;
                        self.warnings.push(format!("the target does not take the bucket's {name}: {why}"));
                    }
                    None => return Err(error.into()),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_for_the_bucket_that_it_is_restored_to() {
        let policy = r#"{"Resource":["arn:aws:s3:::data","arn:aws:s3:::data/*","arn:aws:s3:::data2/*"]}"#;
        let expected = r#"{"Resource":["arn:aws:s3:::new","arn:aws:s3:::new/*","arn:aws:s3:::data2/*"]}"#;
        assert_eq!(for_bucket(policy, "data", "new"), expected);
    }

    #[test]
    fn what_decides_how_objects_are_put_comes_first_and_what_could_hinder_last() {
        let setting = |name: &str| Setting { name: name.into(), body: String::new() };
        let planned =
            Planned::of(["cors", "encryption", "notification", "policy", "versioning"].map(setting).into());
        let names = |settings: &[Setting]| settings.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&planned.before), ["versioning", "encryption"]);
        assert_eq!(names(&planned.after), ["cors", "policy", "notification"]);
    }
}
