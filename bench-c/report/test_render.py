# SPDX-License-Identifier: MIT OR Apache-2.0
"""The page as Chromium shows it: on a phone and on a desk, light and dark, and on paper. The pictures stay in the build folder."""

import io
import unittest

import browser
import sample

WIDTHS = {"phone": 390, "desktop": 1280}
HEIGHT = 844
# What stands outside of the page, and in no box that scrolls.
OVERFLOW = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.box table') && !e.closest('svg *') &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.tagName + ' ' + e.className)"""
# What text of a plot stands outside of it.
CLIPPED = """[...document.querySelectorAll('svg')].flatMap(svg => { const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();
    return r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1;
  }).map(t => svg.parentElement.id + ': ' + t.textContent); })"""
# What texts of a plot cover each other.
COVERED = """[...document.querySelectorAll('svg')].flatMap(svg => { const all = [...svg.querySelectorAll('text')];
  const boxes = all.map(t => t.getBoundingClientRect());
  return all.flatMap((t, i) => all.slice(i + 1).filter((u, k) => { const a = boxes[i], b = boxes[i + 1 + k];
    return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  }).map(u => svg.parentElement.id + ': ' + t.textContent + ' / ' + u.textContent)); })"""
PLOTS = """[...document.querySelectorAll('figure > svg')].map(e => { const r = e.getBoundingClientRect();
  return [e.parentElement.id, r.left + scrollX, r.top + scrollY, r.width, r.height]; })"""
SCREEN = {"phone": (390, 2400), "desktop": (1280, 1600)}


def pixels(png):
    """Brightness from 0 to 1."""
    from matplotlib.image import imread
    return imread(io.BytesIO(png))[:, :, :3].mean(axis=2)


@unittest.skipUnless(browser.find(), "no Chromium: install Debian's package chromium")
class Rendered(unittest.TestCase):
    """One browser for all."""

    @classmethod
    def setUpClass(cls):
        cls.pictures = sample.with_everything()
        cls.url = (cls.pictures / "index.html").as_uri()
        cls.browser = browser.Browser(browser.find())

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()

    def shown(self):
        """Each device and scheme, after the page is shown there."""
        for device, width in WIDTHS.items():
            for scheme in ("light", "dark"):
                self.browser.show(self.url, width, HEIGHT, scheme)
                with self.subTest(device=device, scheme=scheme):
                    yield device, scheme

    def test_nothing_is_wider_than_the_page(self):
        for device, _ in self.shown():
            self.assertEqual(self.browser.evaluate("innerWidth"), WIDTHS[device])
            self.assertLessEqual(self.browser.evaluate("document.documentElement.scrollWidth"), WIDTHS[device])
            self.assertEqual(self.browser.evaluate(OVERFLOW), [])

    def test_no_text_of_a_plot_is_cut_or_covered(self):
        for _ in self.shown():
            self.assertEqual(self.browser.evaluate(CLIPPED), [])
            self.assertEqual(self.browser.evaluate(COVERED), [])

    def test_no_plot_is_blank(self):
        for device, scheme in self.shown():
            plots = self.browser.evaluate(PLOTS)
            self.assertGreater(len(plots), 15)
            for name, *box in plots[::4]:
                seen = pixels(self.browser.picture(*box))
                background = seen[2, 2]
                self.assertTrue(background > 0.95 if scheme == "light" else background < 0.15, (name, background))
                self.assertGreater(seen.var(), 0.004, name)
                self.assertGreater(seen.max() - seen.min(), 0.7, name)
            width, height = SCREEN[device]
            (self.pictures / ("%s-%s.png" % (device, scheme))).write_bytes(self.browser.picture(0, 0, width, height))

    def test_it_prints_light(self):
        self.browser.show(self.url, WIDTHS["desktop"], HEIGHT, "dark", media="print")
        self.assertEqual(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)")
        self.assertEqual(self.browser.evaluate("getComputedStyle(document.querySelector('figure .box')).maxHeight"), "none")
        paper = self.browser.paper()
        self.assertTrue(paper.startswith(b"%PDF"))
        (self.pictures / "paper.pdf").write_bytes(paper)


if __name__ == "__main__":
    unittest.main()
