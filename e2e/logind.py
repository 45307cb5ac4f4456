#!/usr/bin/python3
"""A logind for the tests, on Debian's python3-dbus: logind.py FOLDER. It hands out inhibitor locks, and on SIGUSR1 says that
the machine goes down, then waits until the locks are gone and writes FOLDER/down. FOLDER/there says that it has begun."""
import os
import signal
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

FOLDER = sys.argv[1]
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.bus.BusConnection(os.environ["DBUS_SYSTEM_BUS_ADDRESS"])
name = dbus.service.BusName("org.freedesktop.login1", bus)
IFACE = "org.freedesktop.login1.Manager"


class Manager(dbus.service.Object):
    locks = []

    @dbus.service.method(IFACE, in_signature="ssss", out_signature="h")
    def Inhibit(self, what, who, why, mode):
        ours, theirs = os.pipe()
        self.locks.append(ours)
        open(FOLDER + "/inhibit", "a").write(" ".join([what, who, mode]) + "\n")
        fd = dbus.types.UnixFd(theirs)
        os.close(theirs)
        return fd

    @dbus.service.signal(IFACE, signature="b")
    def PrepareForShutdown(self, start):
        pass

    @dbus.service.method(dbus.PROPERTIES_IFACE, in_signature="ss", out_signature="v")
    def Get(self, interface, prop):
        return dbus.UInt64(5000000)


manager = Manager(bus, "/org/freedesktop/login1")


def released(fd, condition):
    open(FOLDER + "/down", "w").write("down\n")
    return False


def go_down():
    for fd in manager.locks:
        GLib.io_add_watch(fd, GLib.IO_HUP, released)
    manager.PrepareForShutdown(True)
    return True


GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGUSR1, go_down)
open(FOLDER + "/there", "w").write("there\n")
GLib.MainLoop().run()
