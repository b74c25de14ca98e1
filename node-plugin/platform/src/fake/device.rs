//! Devices of the fake: what can be wrong with one before anything is read from it.

use crate::error::{ObjectKind, PlatformError};
use crate::id::{DeviceIdentity, IdentityKind, SetId};
use crate::platform::Result;
use crate::status::Role;
use crate::value::{ByteCount, Detail, DevicePath, Signature};
use std::collections::HashMap;

/// A device of the fake's node.
#[derive(Clone, Debug)]
pub struct FakeDevice {
    /// Size in bytes.
    pub size: ByteCount,
    /// Logical block in bytes.
    pub block: ByteCount,
    /// Whether writing is refused.
    pub read_only: bool,
    /// What it is recognised by; none: only by its path.
    pub identity: Option<DeviceIdentity>,
    /// Where it is mounted.
    pub mounted_on: Option<Detail>,
    /// What is on it.
    pub content: Content,
}

/// What is on a device of the fake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing that anybody recognises.
    Blank,
    /// Something that is not Umbra's.
    Foreign(Signature),
    /// The state of this set.
    BitmapOf(SetId),
    /// The state of a set, failing its checks, in words.
    Damaged(Detail),
}

impl FakeDevice {
    /// A blank, writable disk with blocks of 512 bytes and a serial number.
    pub fn disk(size: ByteCount, serial: &str) -> Self {
        let identity = DeviceIdentity::new(IdentityKind::Serial, serial).expect("a test gives valid serials");
        Self {
            size,
            block: ByteCount(512),
            read_only: false,
            identity: Some(identity),
            mounted_on: None,
            content: Content::Blank,
        }
    }
}

/// All devices, and who has which open.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    devices: HashMap<DevicePath, FakeDevice>,
    openers: HashMap<DevicePath, Detail>,
}

impl Devices {
    pub(crate) fn insert(&mut self, path: DevicePath, device: FakeDevice) {
        self.devices.insert(path, device);
    }

    pub(crate) fn set_opener(&mut self, path: &DevicePath, who: Option<Detail>) {
        match who {
            Some(who) => self.openers.insert(path.clone(), who),
            None => self.openers.remove(path),
        };
    }

    pub(crate) fn set_content(&mut self, path: &DevicePath, content: Content) {
        if let Some(device) = self.devices.get_mut(path) {
            device.content = content;
        }
    }

    pub(crate) fn get(&self, path: &DevicePath) -> Option<&FakeDevice> {
        self.devices.get(path)
    }

    /// What a device is recognised by: at worst its place among files.
    pub(crate) fn identity(&self, path: &DevicePath) -> DeviceIdentity {
        let strong = self.devices.get(path).and_then(|d| d.identity.clone());
        strong.unwrap_or_else(|| DeviceIdentity::new(IdentityKind::File, "8:1").expect("a valid value"))
    }

    /// The device, if it exists and can have this part.
    pub(crate) fn usable(&self, path: &DevicePath, role: Role) -> Result<&FakeDevice> {
        let missing = || PlatformError::NotFound { kind: ObjectKind::Device, name: path.as_str().into() };
        let device = self.devices.get(path).ok_or_else(missing)?;
        if let Some(mount_point) = &device.mounted_on {
            return Err(PlatformError::Mounted { device: path.clone(), mount_point: mount_point.clone() });
        }
        if let Some(holder) = self.openers.get(path) {
            return Err(PlatformError::VolumeInUse { device: path.clone(), holder: holder.clone() });
        }
        if device.read_only {
            return Err(PlatformError::ReadOnlyDevice { device: path.clone(), role });
        }
        Ok(device)
    }

    /// Nothing has the presented device open.
    pub(crate) fn free(&self, path: &DevicePath) -> Result<()> {
        match self.openers.get(path) {
            None => Ok(()),
            Some(openers) => Err(PlatformError::HasOpeners {
                device: path.clone(),
                presents: "as its name says".into(),
                openers: openers.clone(),
            }),
        }
    }
}
